"""bitsandbytes, imported where it is needed alone, and its linear maps without their side effects.

Its own ``Linear4bit`` packs the weight anew in the first evaluation on a CPU with AVX512-BF16, after which dequantising
is silently wrong, and casts its bias in place to what it computes in; its ``Linear8bitLt`` does the latter too. The
classes here compute the same and change nothing.
"""

from __future__ import annotations

from typing import Any

import bitsandbytes
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.errors import VariantError
from variants.sites.kinds.few_bits import dequantised

OUTLIERS = 6.0
"""LLM.int8() computes columns of inputs with larger values than this in 16 bits (arXiv 2208.07339, section 3.2)."""


class Linear4bit(bitsandbytes.nn.Linear4bit):
    """x Wᵀ + b with W in 4 bits, in ``compute_dtype``; the backward pass reads W from its codes again."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features), of x's dtype."""
        dtype = self.compute_dtype or x.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return product(self, x.to(dtype), bias).to(x.dtype)


class Linear8bitLt(bitsandbytes.nn.Linear8bitLt):
    """x Wᵀ + b with W in 8 bits (LLM.int8(), arXiv 2208.07339). On a GPU x is rounded to 8 bits too, but for outliers;
    on a CPU it is multiplied as it is."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features), of x's dtype."""
        return product(self, x, None if self.bias is None else self.bias.to(x.dtype))


def product(module: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ, and a bias, by a packed map: (..., in_features) -> (..., out_features); under ``vmap`` too."""
    weight, four = module.weight, isinstance(module, bitsandbytes.nn.Linear4bit)
    if (four and x.device.type == "cpu") or torch._C._are_functorch_transforms_active():  # what the library cannot
        return _Product.apply(x, bias, module)
    if four:
        return bitsandbytes.matmul_4bit(x, weight, bias=bias, quant_state=weight.quant_state)
    state = module.state
    if weight.SCB.device != x.device:  # model.to() moves the codes alone
        weight.SCB = weight.SCB.to(x.device)
    state.CB, state.SCB = weight.data, weight.SCB
    state.is_training = True  # on a CPU evaluation would round inputs that training does not
    return bitsandbytes.matmul(x, weight, bias=bias, state=state)


class _Product(torch.autograd.Function):
    """The library's product on a CPU, with the matrix read as `dequantised` does; and any product under ``vmap``."""

    @staticmethod
    def forward(x: Tensor, bias: Tensor | None, module: nn.Module) -> Tensor:
        return F.linear(x, dequantised(module.weight).to(x.dtype), bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor | None, nn.Module], output: Tensor) -> None:
        ctx.module = inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        wants_x, wants_bias, _ = ctx.needs_input_grad
        of_x = gradient @ dequantised(ctx.module.weight).to(gradient.dtype) if wants_x else None
        return of_x, gradient.flatten(0, -2).sum(0) if wants_bias else None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, bias: Tensor | None, module: nn.Module) -> tuple[Tensor, int]:
        """All at once by the ordinary product, to which they are more rows; biases (S, out_features) are added."""
        of_x, of_bias, _ = in_dims
        x = x if of_x is None else x.movedim(of_x, 0)
        if of_bias is None:
            return product(module, x, bias), 0
        y = product(module, x)
        rows = y.dim() - (of_x is not None) - 1
        return y + bias.movedim(of_bias, 0).unflatten(0, (-1, *[1] * rows)), 0


OWN: dict[type[nn.Module], type[nn.Module]] = {
    bitsandbytes.nn.Linear4bit: Linear4bit,
    bitsandbytes.nn.LinearNF4: Linear4bit,
    bitsandbytes.nn.LinearFP4: Linear4bit,
    bitsandbytes.nn.Linear8bitLt: Linear8bitLt,
}
"""What takes the place of each class of the library's."""


def take_over(module: nn.Module, path: str) -> None:
    """Let a map of bitsandbytes compute without side effects; others are left alone.

    Raises:
        VariantError: its weight has been packed anew for the CPU already, so that nobody can read it.
    """
    if type(module) not in OWN:
        return
    if getattr(getattr(module.weight, "quant_state", None), "packing_format_for_cpu", False):
        raise VariantError(
            f"{path} was evaluated on this CPU before, for which bitsandbytes has packed its weight in another way: "
            "load the model again, and attach before the first pass"
        )
    if isinstance(module, bitsandbytes.nn.Linear8bitLt) and module.weight.SCB is None:
        module.weight.SCB = module.state.SCB
    module.__class__ = OWN[type(module)]


def packed(dense: Tensor, quant_type: str, double: bool) -> nn.Parameter:
    """A matrix (out_features, in_features) in few bits, on its device.

    Args:
        quant_type: nf4 or fp4, in blocks of 64 values with a scale each; "" for 8 bits with a scale for each row.
        double: whether scales are quantised too.
    """
    if not quant_type:  # the library rounds what it moves off the CPU
        return bitsandbytes.nn.Int8Params(dense.cpu(), requires_grad=False).to(dense.device)
    found = bitsandbytes.nn.Params4bit(dense, requires_grad=False, quant_type=quant_type, compress_statistics=double)
    return found.to(dense.device)


def pack(module: nn.Module, shape: tuple[int, int], packed: nn.Parameter, compute_dtype: torch.dtype) -> None:
    """Make a dense linear map one of bitsandbytes', in place: hooks, children and whoever holds it stay.

    Args:
        module: ``nn.Linear``, or GPT-2's ``Conv1D``.
        shape: (out_features, in_features).
        packed: its matrix, of :func:`packed`.
        compute_dtype: what it multiplies in.
    """
    if type(packed).__name__ == "Int8Params":
        like: nn.Module = Linear8bitLt(1, 1, has_fp16_weights=False, threshold=OUTLIERS)
        like.compute_dtype = compute_dtype
    else:
        like = Linear4bit(1, 1, compute_dtype=compute_dtype)
        like.quant_state, like.quant_storage = packed.quant_state, packed.quant_storage
    module.source_cls = type(module)  # by the name that transformers has for it
    module.out_features, module.in_features = shape
    vars(module).update({name: value for name, value in vars(like).items() if name not in vars(module)})
    module.__class__ = type(like)
    module.weight = packed


def configuration(model: nn.Module) -> dict[str, Any]:
    """What ``config.json`` says of a model whose maps are packed, in transformers' words (``BitsAndBytesConfig``)."""
    maps = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    packed = [module for module in maps.values() if type(module) in OWN.values()]
    others = [path for path, module in maps.items() if type(module) not in OWN.values()]
    dense = [path for path in others if ".adapter." not in f".{path}."]
    common = {"quant_method": "bitsandbytes", "llm_int8_skip_modules": dense}
    if isinstance(packed[0], Linear8bitLt):
        return common | {"load_in_8bit": True, "llm_int8_threshold": OUTLIERS}
    state = packed[0].weight.quant_state
    return common | {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": state.quant_type,
        "bnb_4bit_use_double_quant": state.nested,
        "bnb_4bit_compute_dtype": str(packed[0].compute_dtype).removeprefix("torch."),
        "bnb_4bit_quant_storage": str(packed[0].weight.dtype).removeprefix("torch."),
    }
