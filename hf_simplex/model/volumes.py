"""Volumes and heights of simplexes, from tensors to tensors.

Volumes span
hundreds of orders of magnitude in weight spaces, so every volume here is the natural logarithm of one, in float64.
"""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, zip_longest

import torch
from torch import Tensor

from .complexes import SimplicialComplex

# With digits of at most 2**19 in magnitude a sum of 2**15 products stays within 2**53, where float64 is exact.
_DIGIT_BITS = 20
_CHUNK_COLUMNS = 2**15
# Bits below 2**-1000 are left out: near the end of float64's range some processors are set to flush them anyway.
_SMALLEST_EXPONENT = -1000


def simplex_log_volume(vertices: Tensor | Iterable[Tensor]) -> Tensor:
    """The log volume of one simplex, computed exactly for the vertices as they are stored and rounded at the end.

    Floating-point numbers are integers times a power of two, and so are their inner products. These are computed
    without error: vertices are cut into short digits whose float64 matrix products are exact (Ozaki et al. 2012,
    Error-free transformations of matrix multiplication by using fast routines of matrix multiplication), summed as
    Python integers. The Gram determinant of the edges follows in integers too (Bareiss 1968, Sylvester's identity and
    multistep integer-preserving Gaussian elimination). So very different edges, far clusters and slivers cost no
    accuracy, devices and the division into blocks make no difference, and -inf means that the volume is exactly 0.

    Args:
        vertices: [k + 1, dimension], or blocks [k + 1, block size] whose concatenation along dim 1 are the vertices,
            of any floating dtypes and devices. They are read once, in pieces of at most 2**15 columns, so blocks may
            be made on the way. Bits below 2**-1000 are left out.

    Returns:
        A float64 scalar on the CPU, without gradient: the natural logarithm of the k-dimensional volume, with a
        relative error of a few 1e-16. 0 for a single vertex, -inf for volume 0.

    Raises:
        TypeError: a block that is not a floating-point tensor.
        ValueError: no blocks, blocks of different numbers of vertices, or a value that is not finite or beyond
            2**1000.
    """
    blocks = _blocks(vertices)
    first = next(blocks)
    whole = SimplicialComplex(len(first), (tuple(range(len(first))),))
    return simplex_log_volumes(whole, chain([first], blocks))[0]


def simplex_log_volumes(complex: SimplicialComplex, vertices: Tensor | Iterable[Tensor]) -> Tensor:
    """The log volumes of all simplexes of a complex, in one pass over the weights; exact like `simplex_log_volume`.

    Args:
        complex: the structure.
        vertices: [num_vertices, dimension], or blocks of it, as in `simplex_log_volume`.

    Returns:
        [simplexes] float64 on the CPU. Mind that volumes of simplexes of different dimension cannot be compared.

    Raises:
        TypeError, ValueError: as `simplex_log_volume`; ValueError also when a block has not `num_vertices` rows.
    """
    grams = [[[0] * len(simplex) for _ in simplex] for simplex in complex.simplexes]
    for block in _blocks(vertices):
        if len(block) != complex.num_vertices:
            raise ValueError(
                f"Expected blocks with one row for each of {complex.num_vertices} vertices, got {list(block.shape)}."
            )
        for chunk in _chunks(block):
            for gram, simplex in zip(grams, complex.simplexes, strict=True):
                _add_exact_gram(gram, chunk[list(simplex)])
    log_volumes = [_log_volume_from_gram(gram) for gram in grams]
    return torch.tensor(log_volumes, dtype=torch.float64, device="cpu")


def complex_log_volume(log_volumes: Tensor) -> Tensor:
    """The log of the summed volume of simplexes of equal dimension: [simplexes] log volumes to a float64 scalar.

    Raises ValueError when there is no simplex.
    """
    if log_volumes.ndim != 1 or not len(log_volumes):
        raise ValueError(f"Expected the log volumes of at least one simplex, got shape {list(log_volumes.shape)}.")
    return log_volumes.double().logsumexp(0)


def regular_simplex_log_volume(dimension: int, log_edge: float | Tensor) -> Tensor:
    """The log volume of the regular simplex: log(edge**k / k! * sqrt((k + 1) / 2**k)).

    Independent random vertices in P dimensions are equidistant up to a relative 1/sqrt(P), so this is the log volume
    of a random simplex of weights, the reference of the regularization weight lambda_j = lambda* / log V in Benton et
    al. 2021.

    Args:
        dimension: k, at least 0.
        log_edge: the natural logarithm of the length of each edge.

    Returns:
        A float64 tensor of the shape and on the device of `log_edge`, a scalar on the CPU for a float; 0 for k = 0.

    Raises:
        ValueError: a negative dimension.
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


def gram_matrix(left: Tensor | Iterable[Tensor], right: Tensor | Iterable[Tensor]) -> Tensor:
    """The inner products of two sets of vectors, accumulated in float64 over blocks of columns.

    Args:
        left: [m, dimension], or blocks [m, block size] of it, of any floating dtypes.
        right: [n, dimension], or its blocks, divided in the same way.

    Returns:
        [m, n] float64 on the device of the first block. Ordinary floating-point sums: relative to the product of the
        two norms the error is a small multiple of 1e-16.

    Raises:
        TypeError: a block that is not a floating-point tensor.
        ValueError: no blocks, or blocks that do not match.
    """
    total: Tensor | None = None
    for one, other in zip_longest(_blocks(left), _blocks(right)):
        if one is None or other is None or one.shape[1] != other.shape[1]:
            shapes = [None if block is None else list(block.shape) for block in (one, other)]
            raise ValueError(
                f"Both sides must be divided into the same blocks, got shapes {shapes[0]} and {shapes[1]}."
            )
        for one_chunk, other_chunk in zip(_chunks(one), _chunks(other), strict=True):
            product = one_chunk @ other_chunk.to(one_chunk.device).T
            total = torch.zeros_like(product) if total is None else total
            if total.shape != product.shape:
                raise ValueError(
                    f"Every block must hold the same vectors: expected inner products {list(total.shape)} as in the "
                    f"first block, got {list(product.shape)}."
                )
            total += product.to(total.device)
    assert total is not None
    return total


def height_over_face(
    edge_gram: Tensor, edge_offset: Tensor, offset_squared: Tensor, *, tolerance: float = 1e-12
) -> tuple[Tensor, Tensor]:
    """The squared height of a moving vertex over the fixed face of its k-simplex, from inner products alone.

    The volume of a k-simplex is that of the face, times the height over it, over k. The offset leads from some point
    of the face's plane to the vertex; take a point nearby, since the squared height carries a rounding error of about
    1e-16 times `offset_squared`.

    Args:
        edge_gram: [k - 1, k - 1] float64 inner products of edges that span the face; [0, 0] when it is one vertex.
        edge_offset: [k - 1] float64 inner products of those edges with the offset.
        offset_squared: scalar float64, the squared length of the offset.
        tolerance: a direction of the face counts as missing when its eigenvalue, in the Gram matrix of the edges at
            unit length, is at most this times the largest. So faces with repeated or dependent vertices, flat to
            within an angle of about 1e-6, are treated as faces of the lower dimension that they have.

    Returns:
        The squared height, a scalar that is clamped at 0, and the projection [k - 1]: the coefficients of the edges
        for which `offset - projection @ edges` is perpendicular to the face. Both float64, on the device given.

    Raises:
        ValueError: shapes that do not match.
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
    # Unit edges, so that lengths of different magnitude are not mistaken for missing directions.
    scale = torch.where(lengths > 0, 1.0 / lengths, 0.0)
    eigenvalues, eigenvectors = torch.linalg.eigh(scale[:, None] * edge_gram * scale)
    spans = eigenvalues > tolerance * eigenvalues[-1]
    inverse = torch.where(spans, 1.0 / eigenvalues, 0.0)
    projection = scale * (eigenvectors @ (inverse * (eigenvectors.T @ (scale * edge_offset))))
    return (offset_squared - projection @ edge_offset).clamp(min=0.0), projection


def log_volume_with_floor(
    face_log_volume: float | Tensor, height_squared: Tensor, floor: float, dimension: int
) -> Tensor:
    """The log volume of a k-simplex from its face and the height over it, finite also where the volume is 0.

    It is `face_log_volume + log(height_squared + floor**2) / 2 - log(k)`. A face of volume 0 counts as a regular
    simplex whose edge is the floor: a constant, which no gradient with respect to the vertex depends on.

    Args:
        face_log_volume: the log volume of the face opposite the moving vertex.
        height_squared: scalar float64 from `height_over_face`.
        floor: a height, in the unit of the weights, below which heights are not told apart; 0 for the plain log
            volume, which is -inf where the volume is 0.
        dimension: k, at least 1.

    Returns:
        A float64 scalar on the device of `height_squared`.

    Raises:
        ValueError: a negative floor or a dimension below 1.
    """
    _check_floor(floor)
    if dimension < 1:
        raise ValueError(f"Only simplexes of dimension 1 or more have a face below a vertex, got {dimension}.")
    face_log_volume = torch.as_tensor(face_log_volume, dtype=torch.float64, device=height_squared.device)
    if floor > 0.0:
        smallest = regular_simplex_log_volume(dimension - 1, math.log(floor)).to(height_squared.device)
        face_log_volume = torch.where(face_log_volume == -math.inf, smallest, face_log_volume)
    return face_log_volume + 0.5 * (height_squared.double() + floor**2).log() - math.log(dimension)


def log_height_gradient(height_squared: Tensor, projection: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """The gradient of `log_volume_with_floor` with respect to the moving vertex, as coefficients of known vectors.

    With h the height, p the projection and e_i the edges of `height_over_face`, the perpendicular from the face to the
    vertex is r = offset - sum_i p_i e_i, h**2 = |r|**2, and the gradient of log(h**2 + floor**2) / 2 is
    r / (h**2 + floor**2), since the projection is stationary. At height 0 the gradient is 0, with or without a floor:
    a vertex in the plane of its face has no side to be pushed to. Its length is at most 1 / (2 floor).

    Args:
        height_squared: scalar float64 from `height_over_face`.
        projection: [k - 1] float64 from `height_over_face`.
        floor: as in `log_volume_with_floor`.

    Returns:
        The coefficient of the offset, a scalar, and those of the edges, [k - 1]:
        gradient = offset_coefficient * offset + edge_coefficients @ edges.

    Raises:
        ValueError: a negative floor.
    """
    _check_floor(floor)
    denominator = height_squared.double() + floor**2
    coefficient = torch.where(denominator > 0, 1.0 / denominator, 0.0)
    return coefficient, -coefficient * projection


def _check_floor(floor: float) -> None:
    if not 0.0 <= floor < math.inf:
        raise ValueError(f"The floor of the height must be 0 or more and finite, got {floor}.")


def _blocks(vectors: Tensor | Iterable[Tensor]) -> Iterator[Tensor]:
    block = None
    for block in [vectors] if isinstance(vectors, Tensor) else vectors:
        if not isinstance(block, Tensor) or not block.is_floating_point():
            kind = block.dtype if isinstance(block, Tensor) else type(block).__name__
            raise TypeError(f"Expected floating-point tensors [vectors, block size], got {kind}.")
        if block.ndim != 2:
            raise ValueError(f"Expected tensors [vectors, block size], got shape {list(block.shape)}.")
        yield block.detach()
    if block is None:
        raise ValueError("Expected at least one block of vectors, got none. (Has a generator been used up already?)")


def _chunks(block: Tensor) -> Iterator[Tensor]:
    for chunk in block.split(_CHUNK_COLUMNS, dim=1):
        # The MPS backend has no float64.
        yield (chunk.cpu() if chunk.device.type == "mps" else chunk).double()


def _add_exact_gram(gram: list[list[int]], rows: Tensor) -> None:
    """Add the exact inner products of float64 rows to `gram`, in units of 2**(2 * _SMALLEST_EXPONENT)."""
    largest = float(rows.abs().amax()) if rows.numel() else 0.0
    if not largest <= 2.0**1000:
        raise ValueError(f"The values of a vertex must be finite and at most 2**1000, got {largest}.")
    exponents: list[int] = []
    digits: list[Tensor] = []
    exponent = math.frexp(largest)[1] + 1
    while exponent > _SMALLEST_EXPONENT and bool(rows.any()):
        exponent = max(exponent - _DIGIT_BITS, _SMALLEST_EXPONENT)
        unit = math.ldexp(1.0, exponent)
        digit = (rows / unit).round()
        rows = rows - digit * unit
        exponents.append(exponent)
        digits.append(digit)
    if not digits:
        return
    stacked = torch.cat(digits)
    products = (stacked @ stacked.T).long().tolist()
    size = len(gram)
    for left, left_exponent in enumerate(exponents):
        for right, right_exponent in enumerate(exponents):
            shift = left_exponent + right_exponent - 2 * _SMALLEST_EXPONENT
            for i in range(size):
                for j in range(size):
                    gram[i][j] += products[left * size + i][right * size + j] << shift


def _log_volume_from_gram(gram: list[list[int]]) -> float:
    """Log volume from exact inner products of the vertices: V**2 = det(Gram matrix of k edges) / (k!)**2."""
    dimension = len(gram) - 1
    edges = [
        [gram[i][j] - gram[i][0] - gram[0][j] + gram[0][0] for j in range(1, dimension + 1)]
        for i in range(1, dimension + 1)
    ]
    # Without the powers of two that all entries share, the determinant's integers are several times shorter.
    common = math.gcd(*(entry for row in edges for entry in row))
    if dimension and not common:
        return -math.inf
    determinant = _determinant([[entry // common for entry in row] for row in edges])
    if not determinant:
        return -math.inf
    unit_squared = Fraction(common) * Fraction(2) ** (2 * _SMALLEST_EXPONENT)
    return 0.5 * _log(determinant * unit_squared**dimension / math.factorial(dimension) ** 2)


def _determinant(matrix: list[list[int]]) -> int:
    """The determinant of a positive semidefinite integer matrix, by fraction-free elimination (Bareiss 1968)."""
    size, previous = len(matrix), 1
    for pivot in range(size):
        value = matrix[pivot][pivot]
        # No row exchange can help: a positive semidefinite matrix with a singular leading part is singular.
        if not value:
            return 0
        for i in range(pivot + 1, size):
            for j in range(pivot + 1, size):
                matrix[i][j] = (matrix[i][j] * value - matrix[i][pivot] * matrix[pivot][j]) // previous
        previous = value
    return previous


def _log(value: Fraction) -> float:
    """The natural logarithm of a positive fraction of any magnitude, with a relative error of a few 1e-16."""
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    mantissa = value / Fraction(2) ** exponent
    # Within [2/3, 4/3] no part of the logarithm cancels the other, and log1p keeps values near 1 accurate.
    if mantissa > Fraction(4, 3):
        exponent, mantissa = exponent + 1, mantissa / 2
    elif mantissa < Fraction(2, 3):
        exponent, mantissa = exponent - 1, mantissa * 2
    return exponent * math.log(2.0) + math.log1p(float(mantissa - 1))
