"""Volumes of simplexes and heights of vertices, from tensors to tensors.

In weight spaces volumes span hundreds of orders of magnitude. Every volume is a natural logarithm, in float64.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import chain

import torch
from torch import Tensor

from .complexes import SimplicialComplex

__all__ = [
    "complex_log_volume",
    "height_over_face",
    "log_volume_with_floor",
    "regular_simplex_log_volume",
    "simplex_log_volume",
    "simplex_log_volumes",
]

_CHUNK_COLUMNS = 2**17
"""Columns that one QR step converts to float64."""

_FLAT = 1e-12
"""A simplex counts as flat if a height is at most this fraction of its edge. Rounding alone leaves about 1e-15."""


def simplex_log_volume(vertices: Tensor | Iterable[Tensor]) -> Tensor:
    """The log volume of one simplex, from a QR decomposition of its edges.

    With the edges e_1 ... e_k from the first vertex as the columns of E = QR, the volume is |r_11 ... r_kk| / k!. The
    decomposition takes one chunk of the rows of E after another, together with the R factor so far (Demmel et al.
    2012, Communication-optimal parallel and sequential QR and LU factorizations). So the vertices are read once. A
    Gram matrix would square the error; R does not.

    The log volume has an error of about 1e-15 times the ratio of the longest edge to the smallest height. It is right
    to 1e-9 up to a ratio of 1e5.

    Args:
        vertices: [k + 1, dimension], or blocks [k + 1, block size] that concatenate along dim 1 to the vertices; any
            floating dtypes and devices. A generator can yield the blocks one at a time.

    Returns:
        A float64 scalar on the CPU, without gradient: the natural logarithm of the k-dimensional volume. 0 for a
        single vertex. -inf for a flat simplex, in which the height of a vertex over the earlier vertices is at most
        1e-12 of the length of its edge.

    Raises:
        TypeError: a block is not a floating-point tensor.
        ValueError: there is no block, the blocks differ in their number of vertices, or a value is not finite or
            beyond 2**1000.

    Example:
        >>> import torch
        >>> from hf_simplex.model.volumes import simplex_log_volume
        >>> simplex_log_volume(torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])).exp().round(decimals=6)
        tensor(6., dtype=torch.float64)
    """
    blocks = _blocks(vertices)
    first = next(blocks)
    whole = SimplicialComplex(len(first), (tuple(range(len(first))),))
    return simplex_log_volumes(whole, chain([first], blocks))[0]


def simplex_log_volumes(complex: SimplicialComplex, vertices: Tensor | Iterable[Tensor]) -> Tensor:
    """The log volumes of all simplexes of a complex, in one pass over the vertices.

    Args:
        complex: the structure.
        vertices: [num_vertices, dimension], or blocks of it, as for `simplex_log_volume`.

    Returns:
        [simplexes] float64 on the CPU, each as accurate as by `simplex_log_volume`. Volumes of simplexes of different
        dimension have different units and cannot be compared.

    Raises:
        TypeError, ValueError: as `simplex_log_volume`; ValueError also for a block without `num_vertices` rows.

    Example:
        >>> import torch
        >>> from hf_simplex.model.complexes import SimplicialComplex
        >>> from hf_simplex.model.volumes import simplex_log_volumes
        >>> edges = SimplicialComplex(3, [[0, 1], [0, 2]])
        >>> vertices = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
        >>> simplex_log_volumes(edges, vertices).exp().round(decimals=6)
        tensor([3., 5.], dtype=torch.float64)
    """
    factors = [torch.zeros(0, len(simplex) - 1, dtype=torch.float64) for simplex in complex.simplexes]
    for block in _blocks(vertices):
        if len(block) != complex.num_vertices:
            raise ValueError(
                f"Expected blocks with one row for each of {complex.num_vertices} vertices, got {list(block.shape)}."
            )
        for chunk in block.split(_CHUNK_COLUMNS, dim=1):
            # The MPS backend has no float64.
            rows = (chunk.cpu() if chunk.device.type == "mps" else chunk).double()
            _check_range(rows)
            for index, (first, *others) in enumerate(complex.simplexes):
                edges = (rows[others] - rows[first]).T
                factors[index] = torch.linalg.qr(torch.cat([factors[index].to(edges), edges]), mode="r").R
    return torch.stack([_log_volume_from_factor(factor.cpu()) for factor in factors])


def complex_log_volume(log_volumes: Tensor) -> Tensor:
    """The log of the summed volume of simplexes of equal dimension.

    Args:
        log_volumes: [simplexes] natural logarithms, any floating dtype.

    Returns:
        A float64 scalar.

    Raises:
        ValueError: there is no simplex.

    Example:
        >>> import torch
        >>> from hf_simplex.model.volumes import complex_log_volume
        >>> complex_log_volume(torch.tensor([3.0, 5.0]).log()).exp().round(decimals=5)
        tensor(8., dtype=torch.float64)
    """
    if log_volumes.ndim != 1 or not len(log_volumes):
        raise ValueError(f"Expected the log volumes of at least one simplex, got shape {list(log_volumes.shape)}.")
    return log_volumes.double().logsumexp(0)


def regular_simplex_log_volume(dimension: int, log_edge: float | Tensor) -> Tensor:
    """The log volume of the regular k-simplex: log(edge**k / k! * sqrt((k + 1) / 2**k)).

    Independent random vertices in P dimensions are equidistant up to a relative 1/sqrt(P). So this is the log volume
    of a random simplex of weights, which scales the regularization weight in Benton et al. 2021:
    lambda_j = lambda* / log V.

    Args:
        dimension: k, at least 0.
        log_edge: the natural logarithm of the length of each edge.

    Returns:
        A float64 tensor of the shape and on the device of `log_edge`, a scalar on the CPU for a float; 0 for k = 0.

    Raises:
        ValueError: the dimension is negative.

    Example:
        >>> from hf_simplex.model.volumes import regular_simplex_log_volume
        >>> regular_simplex_log_volume(2, log_edge=0.0).exp()  # sqrt(3) / 4
        tensor(0.4330, dtype=torch.float64)
    """
    if dimension < 0:
        raise ValueError(f"The dimension of a simplex must be at least 0, got {dimension}.")
    if not isinstance(log_edge, Tensor):
        log_edge = torch.tensor(log_edge, dtype=torch.float64, device="cpu")
    log_edge = log_edge.double()
    if dimension == 0:
        return torch.zeros_like(log_edge)
    shape = 0.5 * (math.log(dimension + 1) - dimension * math.log(2.0)) - math.lgamma(dimension + 1)
    return dimension * log_edge + shape


def height_over_face(
    edge_gram: Tensor, edge_offset: Tensor, offset_squared: Tensor, *, tolerance: float = 1e-12
) -> tuple[Tensor, Tensor]:
    """The squared height of a moving vertex over the fixed face of its k-simplex, from inner products alone.

    With e_i for the edges of the face and o for the offset, a vector from any point of the face's plane to the
    vertex, the foot of the height is sum_i p_i e_i with p = G^+ b, where G_ij = <e_i, e_j> and b_i = <e_i, o>. The
    squared height is h^2 = |o|^2 - <p, b>, and the volume of the simplex is V = V_face h / k.

    The rounding error of h^2 is about 1e-16 |o|^2, so the offset should start close to the vertex.

    Args:
        edge_gram: [k - 1, k - 1] float64 inner products of the edges that span the face; [0, 0] for a single vertex.
        edge_offset: [k - 1] float64 inner products of the edges with the offset.
        offset_squared: scalar float64, the squared length of the offset.
        tolerance: relative cutoff of the pseudoinverse. With the edges scaled to unit length, eigenvalues of at most
            this fraction of the largest count as 0. Repeated and dependent vertices of the face thus do not count. The
            default ignores angles below about 1e-6.

    Returns:
        The squared height, a scalar clamped at 0, and the projection p, [k - 1]. Both float64, on the device given.

    Raises:
        ValueError: the shapes do not match.

    Example:
        >>> import torch
        >>> from hf_simplex.model.volumes import height_over_face
        >>> edges, offset = torch.tensor([[2.0, 0.0]]), torch.tensor([1.0, 3.0])
        >>> height_over_face(edges @ edges.T, edges @ offset, offset @ offset)
        (tensor(9., dtype=torch.float64), tensor([0.5000], dtype=torch.float64))
    """
    count = edge_offset.numel()
    if edge_gram.shape != (count, count) or edge_offset.ndim != 1 or offset_squared.numel() != 1:
        raise ValueError(
            "Expected edge_gram [n, n], edge_offset [n] and one offset_squared, got shapes "
            f"{list(edge_gram.shape)}, {list(edge_offset.shape)} and {list(offset_squared.shape)}."
        )
    edge_gram, edge_offset = edge_gram.double(), edge_offset.double()
    offset_squared = offset_squared.double().reshape(())
    if not count:
        return offset_squared.clamp(min=0.0), edge_offset
    lengths = edge_gram.diagonal().sqrt()
    # Scale the edges to unit length, so that a short edge is not dropped as a missing direction.
    scale = torch.where(lengths > 0, 1.0 / lengths, 0.0)
    eigenvalues, eigenvectors = torch.linalg.eigh(scale[:, None] * edge_gram * scale)
    spans = eigenvalues > tolerance * eigenvalues[-1]
    inverse = torch.where(spans, 1.0 / eigenvalues, 0.0)
    projection = scale * (eigenvectors @ (inverse * (eigenvectors.T @ (scale * edge_offset))))
    return (offset_squared - projection @ edge_offset).clamp(min=0.0), projection


def log_volume_with_floor(
    face_log_volume: float | Tensor, height_squared: Tensor, floor: float, dimension: int
) -> Tensor:
    """The log volume of a k-simplex from its face and the height over it, finite for a flat simplex too.

    log V = log V_face + log(h^2 + floor^2) / 2 - log k. A face of volume 0 counts as a regular simplex of edge
    `floor`. This constant does not change the gradient with respect to the vertex.

    Args:
        face_log_volume: the log volume of the face opposite the moving vertex.
        height_squared: scalar float64, h^2 from `height_over_face`.
        floor: a height far below those of interest, in units of the weights. 0 gives the plain log volume, -inf for a
            flat simplex.
        dimension: k, at least 1.

    Returns:
        A float64 scalar on the device of `height_squared`.

    Raises:
        ValueError: the floor is negative or not finite, or the dimension is below 1.

    Example:
        >>> import math, torch
        >>> from hf_simplex.model.volumes import log_volume_with_floor
        >>> log_volume_with_floor(math.log(2.0), torch.tensor(9.0), floor=0.0, dimension=2).exp().round(decimals=6)
        tensor(3., dtype=torch.float64)
    """
    if not 0.0 <= floor < math.inf:
        raise ValueError(f"The floor of the height must be 0 or more and finite, got {floor}.")
    if dimension < 1:
        raise ValueError(f"Only simplexes of dimension 1 or more have a face below a vertex, got {dimension}.")
    face_log_volume = torch.as_tensor(face_log_volume, dtype=torch.float64, device=height_squared.device)
    if floor > 0.0:
        smallest = regular_simplex_log_volume(dimension - 1, math.log(floor)).to(height_squared.device)
        face_log_volume = torch.where(face_log_volume == -math.inf, smallest, face_log_volume)
    return face_log_volume + 0.5 * (height_squared.double() + floor**2).log() - math.log(dimension)


def _blocks(vertices: Tensor | Iterable[Tensor]) -> Iterator[Tensor]:
    """The blocks without autograd, each checked."""
    block = None
    for block in [vertices] if isinstance(vertices, Tensor) else vertices:
        if not isinstance(block, Tensor) or not block.is_floating_point():
            kind = block.dtype if isinstance(block, Tensor) else type(block).__name__
            raise TypeError(f"Expected floating-point tensors [vertices, block size], got {kind}.")
        if block.ndim != 2:
            raise ValueError(f"Expected tensors [vertices, block size], got shape {list(block.shape)}.")
        yield block.detach()
    if block is None:
        raise ValueError("Expected at least one block of vertices, got none. (Has a generator been used up already?)")


def _check_range(rows: Tensor) -> None:
    largest = float(rows.abs().amax()) if rows.numel() else 0.0
    if not largest <= 2.0**1000:
        raise ValueError(f"The values of a vertex must be finite and at most 2**1000, got {largest}.")


def _log_volume_from_factor(factor: Tensor) -> Tensor:
    """The log volume from the R factor [min(k, dimension), k] of the edges."""
    dimension = factor.shape[1]
    heights, lengths = factor.diagonal().abs(), factor.norm(dim=0)
    if len(heights) < dimension or bool((heights <= _FLAT * lengths).any()):
        return torch.tensor(-math.inf, dtype=torch.float64, device="cpu")
    return heights.log().sum() - math.lgamma(dimension + 1)
