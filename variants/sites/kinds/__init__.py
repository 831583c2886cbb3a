"""How modules keep the matrix of a linear map: a class for each way, which `variants.sites.site.Site` asks.

Another way of keeping it is one more class in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor, nn

from variants.errors import VariantError
from variants.sites.kinds.convolution import Convolution
from variants.sites.kinds.experts import ExpertMap
from variants.sites.kinds.few_bits import FewBits
from variants.sites.kinds.plain import Plain


class Transposed(Plain):
    """GPT-2's ``Conv1D``: a parameter ``weight`` of shape (in, out).

    It is known by its shape, so that transformers need not be imported.
    """

    def transposes(self, module: nn.Module) -> bool:
        """It does."""
        return True

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

    As libraries keep it that the project does not know (`FewBits` is bitsandbytes'). Only the module itself can read
    it; what is computed beside the module (an update of low rank) works all the same.
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


KINDS = (FewBits(), Transposed(), Quantised(), Expert(), Convolution(), Plain())
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
