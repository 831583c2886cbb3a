"""DoRA in an accelerated pass: norms of all layers at once, W₀ + sBA never formed, few operations per layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from variants.acceleration.basics import torch_private
from variants.acceleration.basics.fast_paths import FORWARDS, ON_UPDATED, PREPARATIONS, replaces
from variants.acceleration.basics.overrides import Override
from variants.acceleration.basics.policy import is_checkpointed
from variants.acceleration.methods.grouping import alike, stacked
from variants.acceleration.products.elementwise import add_gain, add_scaled
from variants.acceleration.products.low_rank import Product, project
from variants.acceleration.products.side_stream import split
from variants.acceleration.products.updated_maps import again_of, is_updated
from variants.adapters.stacked_layer import StackedLayer
from variants.layer import full_precision, wide
from variants.methods.dora import SMALLEST, DoRALayer
from variants.sites.kinds.few_bits import is_packed
from variants.sites.site import Site

_SQUARES: WeakKeyDictionary[DoRALayer, tuple[tuple, Tensor]] = WeakKeyDictionary()
"""Of each layer: which base weight was read, and the sums of its rows' squares (out_features)."""
NOT_KEPT = ("q", "k", "o", "down")
"""Roles of maps whose outputs nobody keeps: they are turned by their positions, or added to the residual stream."""

ON_UPDATED.add(DoRALayer.forward)


@replaces(FORWARDS, DoRALayer.forward)
def forward(layer: DoRALayer | StackedLayer, x: Tensor, y: Tensor) -> Tensor:
    """As :meth:`DoRALayer.forward`."""
    first = getattr(layer, "first", layer)
    if layer is first:
        h = layer.gain()
    elif _has_plain_gain(first):
        h = _stacked_gain(layer)
    else:
        return layer(x, y)
    h, bias = h.to(y.dtype), layer.site.bias()
    undo = layer.site.role == "v"  # which attention keeps
    if is_updated(y):
        again = again_of(y) if layer.site.role in NOT_KEPT and not is_checkpointed() else None
        return add_gain(y, h, bias, again, undo)
    dropped = first.dropout(x) if first.drops else x
    update = layer.low_rank()
    updated = Product(project(dropped, update.A), update.B, update.scale).added(y)
    if first.drops and first.config.dropout_mode == "official":
        return add_scaled(updated, h, layer.site.times(dropped) + (updated - y))
    return add_gain(updated, h, bias, undo=undo)


@replaces(PREPARATIONS, DoRALayer.forward)
def gains(layers: Sequence[DoRALayer]) -> Iterator[Override]:
    """The gains of all layers, those of one shape computed together; not of layers over a weight in shards, which can
    be read in the layer's own pass alone."""
    readable = [layer for layer in layers if _has_plain_gain(layer) and not layer.site.in_shards]
    for group in alike(readable, "lora_A", "lora_B", "scaling"):
        A, B = stacked(group, "lora_A"), stacked(group, "lora_B")
        with full_precision(A):
            WA = torch.stack([_wide_product(layer.site, layer.lora_A) for layer in group]).detach()
            norms = norm(A, B, group[0].scaling, WA, torch.stack([_squares(layer) for layer in group]))
        together = _Gains.apply(stacked(group, "magnitude"), norms).to(group[0].site.dtype)
        for layer, h in zip(group, split(together), strict=True):
            yield layer, "gain", lambda h=h: h


class _Gains(torch.autograd.Function):
    """m/‖W₀ + sBA‖ - 1, norms constant; several backward passes may go through it, each with a part of the gradient, as
    reentrant checkpointing has one for each region."""

    @staticmethod
    def forward(ctx: Any, magnitudes: Tensor, norms: Tensor) -> Tensor:
        ctx.norms = norms  # saved as a tensor it would be gone after the first
        return magnitudes / norms - 1

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient / ctx.norms, None


def _has_plain_gain(layer: DoRALayer) -> bool:
    return type(layer).gain is DoRALayer.gain and type(layer).norm is DoRALayer.norm


def _stacked_gain(layer: StackedLayer) -> Tensor:
    """The gains of all adapters at a site, (S, out_features)."""
    A, B, s, _, _ = layer.low_rank()
    with full_precision(A):
        WA = (wide(layer.site.weight()) @ wide(A).mT).detach()
        return layer.tensors()["magnitude"] / norm(A, B, s, WA, _squares(layer.first)) - 1


@torch.no_grad()
def norm(A: Tensor, B: Tensor, s: float, WA: Tensor, squares: Tensor) -> Tensor:
    """‖W₀ + sBA‖ (n, out) of n layers or adapters, neither BA nor the sum ever formed.

    Args:
        A, B, s: (n, r, in), (n, out, r) and the scale that all have.
        WA: W₀Aᵀ, (n, out, r).
        squares: ‖W₀‖², (n, out) or (out).
    """
    A, B = wide(A), wide(B)
    twice = torch.baddbmm(WA, B, A @ A.mT, beta=2 * s, alpha=s**2)
    return (squares + (B * twice).sum(-1)).clamp_min(SMALLEST**2).sqrt()


def _squares(layer: DoRALayer) -> Tensor:
    """‖W₀‖² (out_features), computed again where the base weight is another or has been written to.

    While a CUDA graph is captured that is not looked for: frozen maps may have been moved to be joined since, and every
    replay would compute the squares.
    """
    parameter, known = layer.site.parameter, _SQUARES.get(layer)
    if known is not None and parameter.is_cuda and torch.cuda.is_current_stream_capturing():
        return known[1]
    if parameter.is_inference():  # nobody counts what is written to it
        return _sums(layer)
    if known is None or known[0] != _state(parameter):
        with torch.inference_mode(False):
            squares = _sums(layer)
            if known is not None and (known[1].dtype, known[1].device) == (squares.dtype, squares.device):
                squares = known[1].copy_(squares)  # graphs that were captured before read this memory
            known = _SQUARES[layer] = _state(parameter), squares
    return known[1]


def _sums(layer: DoRALayer) -> Tensor:
    return wide(layer.site.weight().detach()).square().sum(dim=1)


def _state(weight: Tensor) -> tuple:
    """Equal for a weight in the same memory that nobody has written to."""
    memory = torch_private.memory(weight)
    return memory, weight.data_ptr(), weight._version, weight.dtype, weight.device


def _wide_product(site: Site, a: Tensor) -> Tensor:
    """W Aᵀ in fp32 at least; a GPU sums products of bf16 in fp32 without widening them first. A weight in few bits is
    not made dense for it."""
    if is_packed(site.module.weight):
        return wide(site.times(a.to(site.dtype)).T)
    weight = site.weight()
    if weight.is_cuda and weight.dtype == a.dtype == torch.bfloat16:
        return torch.mm(weight, a.T, out_dtype=torch.float32)
    return wide(weight) @ wide(a).T
