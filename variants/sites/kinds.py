"""How modules keep the matrix of a linear map: a class for each way, which `variants.sites.site.Site` asks.

Another way of keeping it (a few bits for each value) is one more class in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from variants.errors import VariantError
from variants.sites.experts import ExpertMap
from variants.sites.patches import Window
from variants.sites.rows import Rows


class Plain:
    """``torch.nn.Linear``: a parameter ``weight`` of shape (out, in)."""

    transposed = False
    readable = True
    """The matrix can be read from the parameter and written to it."""
    sees_batch = True
    """The module gets the rows of a batch in their order: not tokens that somebody has chosen."""

    def fits(self, module: nn.Module) -> bool:
        """Whether a module keeps its matrix in this way."""
        return isinstance(module, nn.Linear)

    def parameter(self, module: nn.Module) -> nn.Parameter:
        """The module's parameter that holds the matrix, in whatever form."""
        return module.weight

    def shape(self, module: nn.Module) -> tuple[int, int]:
        """(out_features, in_features) of the whole map."""
        return tuple(module.weight.shape)

    def dtype(self, module: nn.Module) -> torch.dtype:
        """What the module computes in."""
        return module.weight.dtype

    def weight(self, module: nn.Module, rows: Rows) -> Tensor:
        """Rows of the matrix, (out_features, in_features); a view where the rows lie side by side."""
        return rows.of(self._matrix(module))

    def times(self, module: nn.Module, rows: Rows, x: Tensor) -> Tensor:
        """x Wᵀ, (..., in_features) -> (..., out_features)."""
        return F.linear(x, self.weight(module, rows))

    def write(self, module: nn.Module, rows: Rows, weight: Tensor) -> None:
        """Replace rows of the matrix in place."""
        rows.write(self._matrix(module), weight)

    def kept(self, module: nn.Module, rows: Rows) -> Any:
        """An exact copy of what :meth:`write` changes, in the module's form."""
        return rows.of(self._matrix(module).detach()).clone()

    def restore(self, module: nn.Module, rows: Rows, kept: Any) -> None:
        """Bring back what :meth:`kept` gave."""
        rows.write(self._matrix(module), kept)

    def window(self, module: nn.Module) -> Window | None:
        """Which patches of its input the module multiplies, where these are its rows; else the input's own are."""
        return None

    def probe(self, module: nn.Module, rows: int, rng: torch.Generator) -> Tensor:
        """Random inputs that the module can be called with, of about so many rows."""
        return torch.randn(rows, self.shape(module)[1], generator=rng)

    def unshare(self, module: nn.Module) -> None:
        """Give the module a copy of its parameter, so that writing changes no other module."""
        module.weight = nn.Parameter(module.weight.detach().clone(), requires_grad=False)

    def _matrix(self, module: nn.Module) -> Tensor:
        return module.weight


class Transposed(Plain):
    """GPT-2's ``Conv1D``: a parameter ``weight`` of shape (in, out).

    It is known by its shape, so that transformers need not be imported.
    """

    transposed = True

    def fits(self, module: nn.Module) -> bool:
        """Whether the module is GPT-2's transposed map."""
        weight = getattr(module, "weight", None)
        return isinstance(getattr(module, "nf", None), int) and weight is not None and weight.ndim == 2

    def shape(self, module: nn.Module) -> tuple[int, int]:
        """(out_features, in_features) of a weight that is kept as (in, out)."""
        return tuple(module.weight.shape)[::-1]

    def _matrix(self, module: nn.Module) -> Tensor:
        return module.weight.t()


class Quantised(Plain):
    """A linear map whose parameter is no matrix of floating-point numbers: integers and a scale, packed bytes, fp8.

    Only the module itself can read it. What is computed beside the module (an update of low rank) works all the same.
    """

    readable = False

    def fits(self, module: nn.Module) -> bool:
        """Whether the module is a linear map whose parameter is not its matrix."""
        if not isinstance(module, nn.Linear):
            return False
        weight = module.weight
        wrapped = hasattr(weight, "__tensor_flatten__") and not hasattr(weight, "device_mesh")  # torchao's, no DTensor
        return wrapped or not weight.dtype.is_floating_point or weight.dtype.itemsize < 2

    def shape(self, module: nn.Module) -> tuple[int, int]:
        """(out_features, in_features) as the module says, since its parameter may be packed."""
        return module.out_features, module.in_features

    def dtype(self, module: nn.Module) -> torch.dtype:
        """What the module computes in, as far as it can be told: of its own accord, or by its bias."""
        bias = getattr(module, "bias", None)
        known = (getattr(module, "compute_dtype", None), None if bias is None else bias.dtype)
        return next((x for x in known if isinstance(x, torch.dtype) and x.is_floating_point), torch.get_default_dtype())

    def packs(self, module: nn.Module) -> bool:
        """Whether several numbers share an element, as in 4 bits."""
        return module.weight.numel() != module.out_features * module.in_features


class Expert(Plain):
    """One matrix of one expert, which reads a slice of a parameter of all."""

    sees_batch = False

    def fits(self, module: nn.Module) -> bool:
        """Whether the module is such a map."""
        return isinstance(module, ExpertMap)

    def parameter(self, module: nn.Module) -> nn.Parameter:
        """That of all experts."""
        return module.parameter

    def unshare(self, module: nn.Module) -> None:
        """Not to be had."""
        raise VariantError("experts have no copy of their own weights: merge, or use one adapter at a time")


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


KINDS = (Transposed(), Quantised(), Expert(), Convolution(), Plain())
"""The first that fits a module is its kind."""


def kind_of(module: nn.Module) -> Plain | None:
    """How a module keeps its matrix, or None where it is no linear map that this package can read and write."""
    return next((kind for kind in KINDS if kind.fits(module)), None)


def is_linear(module: nn.Module) -> bool:
    """A module that computes x Wᵀ + b with a weight that this package can read and write."""
    return kind_of(module) is not None


def is_conv1d(module: nn.Module) -> bool:
    """GPT-2's transposed linear map."""
    return isinstance(kind_of(module), Transposed)


def memory(tensor: Tensor) -> Hashable:
    """Equal for tensors that begin in the same memory: tied weights, whether or not they are one parameter."""
    return tensor.data_ptr() if not tensor.is_meta and type(tensor.data) is Tensor and tensor.numel() else id(tensor)
