"""Linear maps whose weight is kept in few bits by bitsandbytes: read as a dense matrix, never written to.

What is written goes into a dense weight that stands in for the packed one; the packed one is put aside as it is, so
that it comes back bit by bit. To quantise what was written would lose it in the rounding: an update is far smaller than
the distance of two codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from variants.sites.kinds.plain import Plain
from variants.sites.kinds.rows import Rows

PACKED = ("Params4bit", "Int8Params")
"""bitsandbytes' parameters, by name: to know them the library need not be imported."""
ASIDE = "packed_weight"
"""Attribute of a module whose weight is dense for now: (its class, its packed weight)."""
NOTE = "quantisation"
"""Attribute of a model whose maps the project has quantised: a `Quantisation`."""


def is_packed(parameter: Tensor | None) -> bool:
    """Whether a parameter holds a matrix in few bits."""
    return type(parameter).__name__ in PACKED


def packed_maps(model: nn.Module) -> list[nn.Module]:
    """The modules of a model, or a module itself, whose weight is packed now."""
    return [module for module in model.modules() if is_packed(module._parameters.get("weight"))]


def stored(weight: nn.Parameter) -> Iterator[Tensor]:
    """All that a packed weight is kept in, its codes and scales; not the code books, which all weights share."""
    yield weight.data
    state = getattr(weight, "quant_state", None)
    if state is None:
        yield weight.SCB
        return
    yield state.absmax
    if state.nested:
        yield state.state2.absmax
        yield state.offset


def numel(parameter: Tensor) -> int:
    """How many numbers a parameter holds: of one in 4 bits two a byte, and the padding of an odd one not counted."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


@dataclass(frozen=True)
class Quantisation:
    """What is known of a base in few bits.

    Attributes:
        scheme: one of `variants.schemes.SCHEMES`.
        compute_dtype: what its maps multiply in, such as "bfloat16".
        relative_error: ‖Q(W) - W‖ / ‖W‖ over all maps (Frobenius); None of a model that came quantised.
        maps: how many there are.
    """

    scheme: str
    compute_dtype: str
    relative_error: float | None
    maps: int

    @property
    def words(self) -> str:
        """For a reader."""
        off = "" if self.relative_error is None else f", off by {self.relative_error:.1%} of their size"
        return f"base in {self.scheme}: {self.maps} maps{off}; computed in {self.compute_dtype}"

    def described(self) -> dict[str, Any]:
        """For an adapter's file."""
        return asdict(self)


class FewBits(Plain):
    """A map of bitsandbytes: ``Linear4bit`` (NF4, FP4, with or without double quantisation) or ``Linear8bitLt``."""

    def fits(self, module: nn.Module) -> bool:
        """Whether the weight is packed, or a dense one stands in for it."""
        return is_packed(module._parameters.get("weight")) or ASIDE in vars(module)

    def parameter(self, module: nn.Module) -> nn.Parameter:
        """The packed weight, or the dense one that stands in for it."""
        return module.weight

    def shape(self, module: nn.Module) -> tuple[int, int]:
        """(out_features, in_features)."""
        return module.out_features, module.in_features

    def dtype(self, module: nn.Module) -> torch.dtype:
        """What the module computes in."""
        if not is_packed(module.weight):
            return module.weight.dtype
        state = getattr(module.weight, "quant_state", None)
        found = getattr(module, "compute_dtype", None) or getattr(state, "dtype", None)
        return found or (torch.get_default_dtype() if module.bias is None else module.bias.dtype)

    def transposes(self, module: nn.Module) -> bool:
        """Whether it was GPT-2's ``Conv1D`` before, and is when it is dense."""
        return getattr(module, "source_cls", nn.Linear).__name__ == "Conv1D"

    def times(self, module: nn.Module, rows: Rows, x: Tensor) -> Tensor:
        """x Wᵀ, by the packed product where there is one."""
        if not is_packed(module.weight) or not rows.is_whole:
            return super().times(module, rows, x)
        from variants.sites.kinds import library

        return library.product(module, x)

    def kept(self, module: nn.Module, rows: Rows) -> Tensor | None:
        """None for a packed weight, which nobody changes; of one that stands in the rows."""
        return None if is_packed(module.weight) else super().kept(module, rows)

    def write(self, module: nn.Module, rows: Rows, weight: Tensor) -> None:
        """Replace rows of the dense weight, which stands in from now on."""
        self.stand_in(module)
        super().write(module, rows, weight)

    def restore(self, module: nn.Module, rows: Rows, kept: Tensor | None) -> None:
        """Bring back what :meth:`kept` gave."""
        if kept is None:
            self.pack_again(module)
        else:
            self.write(module, rows, kept)

    def pack_again(self, module: nn.Module) -> bool:
        """Put the packed weight back in its place; whether there is one."""
        if ASIDE not in vars(module):
            return False
        cls, packed = vars(module).pop(ASIDE)
        module.__class__ = cls
        module.weight = packed.to(module.weight.device)
        return True

    def forget(self, module: nn.Module) -> None:
        """Let the dense weight that stands in be the module's own for good."""
        vars(module).pop(ASIDE, None)

    def stand_in(self, module: nn.Module) -> None:
        """Put a dense weight in the place of the packed one."""
        if not is_packed(module.weight):
            return
        dense, packed = self._matrix(module), module.weight
        vars(module)[ASIDE] = type(module), packed
        module.__class__ = getattr(module, "source_cls", nn.Linear)
        module.weight = nn.Parameter(dense.t().contiguous() if self.transposes(module) else dense, requires_grad=False)

    def unshare(self, module: nn.Module) -> None:
        """Nothing: a packed weight is never written to."""
        if not is_packed(module.weight):
            super().unshare(module)

    def _matrix(self, module: nn.Module) -> Tensor:
        if not is_packed(module.weight):
            return module.weight.t() if self.transposes(module) else module.weight
        return dequantised(module.weight).to(self.dtype(module))


@contextmanager
def said_in_config(model: nn.Module) -> Iterator[None]:
    """``with`` this, the configuration of a transformers model says which maps are in few bits, as a folder has to."""
    config = getattr(model, "config", None)
    if config is None or not packed_maps(model) or getattr(config, "quantization_config", None) is not None:
        yield
        return
    from variants.sites.kinds import library

    config.quantization_config = library.configuration(model)
    try:
        yield
    finally:
        del config.quantization_config


def take_over(model: nn.Module) -> None:
    """Let all maps of bitsandbytes in a model compute without the library's side effects.

    Raises:
        VariantError: a weight has been packed in another way already.
    """
    if packed_maps(model):
        from variants.sites.kinds import library

        for path, module in model.named_modules():
            library.take_over(module, path)


@torch.no_grad()
def dequantised(weight: nn.Parameter) -> Tensor:
    """The matrix (out_features, in_features) that a packed weight stands for, as a new tensor.

    4 bits are read as one row: of several rows bitsandbytes 0.50.2 takes wrong scales on a CPU with AVX512 where their
    length is a multiple of 16 and not of 64.
    """
    from bitsandbytes import functional

    if type(weight).__name__ == "Int8Params":
        return functional.int8_vectorwise_dequant(weight.data, weight.SCB.to(weight.device))
    state = weight.quant_state
    scales = state.absmax
    if state.nested:
        scales = functional.dequantize_blockwise(scales, state.state2) + state.offset
    row = (1, state.shape.numel())
    read = torch.ops.bitsandbytes.dequantize_4bit.default
    return read(weight.data, scales.float(), state.blocksize, state.quant_type, row, state.dtype).view(state.shape)


def quantisation_of(model: nn.Module) -> Quantisation | None:
    """What is known of a model's maps in few bits; None where it has none."""
    if (noted := vars(model).get(NOTE)) is not None:
        return noted
    packed = packed_maps(model)
    if not packed:
        return None
    state = getattr(packed[0].weight, "quant_state", None)
    name = "int8" if state is None else f"{state.quant_type}{'-dq' if state.nested else ''}"
    return Quantisation(name, str(FewBits().dtype(packed[0])).removeprefix("torch."), None, len(packed))
