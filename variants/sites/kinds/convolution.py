"""How a convolution keeps the matrix of its map of patches, and which convolutions are no such map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from variants.sites.kinds.patches import Window
from variants.sites.kinds.plain import Plain
from variants.sites.kinds.rows import Rows


class Convolution(Plain):
    """A convolution with a kernel (O, C, k, k): the map of patches with the matrix (O, C·k·k)."""

    def fits(self, module: nn.Module) -> bool:
        """Whether the module is a convolution that is such a map."""
        return isinstance(module, _ConvNd) and not no_map(module)

    def shape(self, module: nn.Module) -> tuple[int, int]:
        """(O, C·k·k)."""
        return len(module.weight), module.weight[0].numel()

    def window(self, module: nn.Module) -> Window:
        """The patches that it multiplies."""
        return Window.of(module)

    def write(self, module: nn.Module, rows: Rows, weight: Tensor) -> None:
        """Replace rows of the matrix in place."""
        rows.write(module.weight, self.window(module).kernels(weight))  # its memory may be in another order

    restore = write

    def probe(self, module: nn.Module, rows: int, rng: torch.Generator) -> Tensor:
        """Random images, (rows, C, ...), twice as long as a patch."""
        window = self.window(module)
        return torch.randn(rows, window.channels, *(2 * reach for reach in window.reach), generator=rng)

    def _matrix(self, module: nn.Module) -> Tensor:
        return module.weight.flatten(1)


def no_map(module: nn.Module) -> str:
    """Why a convolution cannot be adapted, as what it does; "" where it can."""
    if module.transposed:
        return "is a transposed convolution, whose patches are its outputs"
    if module.groups > 1:
        return f"is a convolution in {module.groups} groups, and no product with one matrix"
    if isinstance(module.padding, str):
        return f"is a convolution that pads by a word ({module.padding!r}): give it a number"
    if module.padding_mode != "zeros":
        return f"is a convolution that pads with other values than zeros ({module.padding_mode})"
    if not module.weight.dtype.is_floating_point or module.weight.dtype.itemsize < 2:
        return f"is a convolution that keeps its weight as {str(module.weight.dtype).removeprefix('torch.')}"
    return ""
