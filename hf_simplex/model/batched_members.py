"""The forward passes of several members as one batch: what the members share is computed once."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

__all__ = ["BatchedMembers"]


class BatchedMembers:
    """Runs members that share weights in one pass of one backbone.

    The weights in which members differ are stacked, and `torch.func.vmap` maps the backbone over them. Up to the first
    layer with such a weight, the images pass once for all members. After it, a layer with shared weights takes the
    images of all members as one larger batch.

    Args:
        members: backbones in evaluation mode, at least one; read one after the other, so that they may be one module
            that holds other weights each time.

    Example:
        >>> from torch import nn
        >>> from hf_simplex.model.batched_members import BatchedMembers
        >>> batched = BatchedMembers([nn.Linear(2, 3), nn.Linear(2, 3)])
        >>> batched.num_members
        2
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        found: dict[str, list[Tensor]] = {}
        self.num_members = 0
        for module in members:
            self.module = module
            self.num_members += 1
            own = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
            for name, tensor in (*own, *module.named_buffers()):
                found.setdefault(name, []).append(tensor.detach().clone())
        self.stacked: dict[str, Tensor] = {}
        self.common: dict[str, Tensor] = {}
        for name, tensors in found.items():
            if all(torch.equal(tensor, tensors[0]) for tensor in tensors):
                self.common[name] = tensors[0]
            else:
                self.stacked[name] = torch.stack(tensors)

    def apply_to_tensors(self, function: Callable[[Tensor], Tensor]) -> None:
        """Cast or move the members' own weights. The caller converts the backbone.

        Args:
            function: from a tensor to the new one.

        Example::

            batched.apply_to_tensors(lambda tensor: tensor.cuda())
        """
        for tensors in (self.stacked, self.common):
            tensors.update({name: function(tensor) for name, tensor in tensors.items()})

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Return the logits of each member, [batch, members, labels] float32.

        Args:
            pixel_values: [batch, channels, height, width] on the members' device.

        Raises:
            RuntimeError: the backbone's code cannot be mapped over weights, for example because it branches on values.
        """

        def logits(own: Mapping[str, Tensor]) -> Tensor:
            output: Any = functional_call(self.module, {**self.common, **own}, kwargs={"pixel_values": pixel_values})
            return output.logits.float()

        if not self.stacked:
            return logits({}).unsqueeze(1).expand(-1, self.num_members, -1)
        try:
            return vmap(logits, out_dims=1)(self.stacked)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:
            raise RuntimeError(
                f"The {type(self.module).__name__} cannot run its members as one batch: {error}. Call materialize() "
                "without batched."
            ) from error
