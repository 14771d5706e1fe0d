"""BatchNorm statistics as one vector: interpolated in one operation, and written in a few."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..model.batch_norm import batch_norm_statistics

__all__ = ["FlatStatistics"]


class FlatStatistics:
    """Running means and variances of all BatchNorm layers of a module, in a row.

    The number of batches that a layer has seen is left out: evaluation does not use it.

    Args:
        module: its buffers are read and written in place.

    Attributes:
        channels: length of the vector; 0 without BatchNorm.

    Example:
        >>> from torch import nn
        >>> flat = FlatStatistics(nn.BatchNorm2d(2))
        >>> flat.channels, flat.read()
        (4, tensor([0., 0., 1., 1.]))
    """

    def __init__(self, module: nn.Module) -> None:
        self._buffers = {
            name: buffer for name, buffer in batch_norm_statistics(module).items() if buffer.is_floating_point()
        }
        self._sizes = [buffer.numel() for buffer in self._buffers.values()]
        self.channels = sum(self._sizes)

    def read(self) -> Tensor:
        """Copy the module's statistics, [channels] float32 on the CPU.

        Example:
            >>> from torch import nn
            >>> FlatStatistics(nn.Linear(1, 1)).read()
            tensor([])
        """
        return self.of(self._buffers)

    def of(self, statistics: Mapping[str, Tensor]) -> Tensor:
        """Put given statistics in the order of the vector.

        Args:
            statistics: by buffer name, such as `ComplexOfBackbones.vertex_statistics`.

        Returns:
            [channels] float32 on the CPU.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> flat = FlatStatistics(nn.BatchNorm2d(1))
            >>> flat.of({"running_var": torch.tensor([2.0]), "running_mean": torch.tensor([1.0])})
            tensor([1., 2.])
        """
        if not self._buffers:
            return torch.zeros(0)
        return torch.cat([statistics[name].detach().float().cpu().reshape(-1) for name in self._buffers])

    @torch.no_grad()
    def write(self, vector: Tensor) -> None:
        """Write a vector into the module.

        Args:
            vector: [channels] of any floating dtype and device.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> layer = nn.BatchNorm2d(1)
            >>> FlatStatistics(layer).write(torch.tensor([3.0, 4.0]))
            >>> layer.running_var
            tensor([4.])
        """
        if self._buffers:
            pieces = vector.split(self._sizes)
            buffers = list(self._buffers.values())
            torch._foreach_copy_(buffers, [piece.view_as(own) for piece, own in zip(pieces, buffers, strict=True)])
