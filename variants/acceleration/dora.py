"""DoRA in an accelerated pass: norms of all layers at once, W₀ + sBA never formed, few operations per layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from variants.acceleration.elementwise import add_gain, add_scaled
from variants.acceleration.fast_paths import FORWARDS, PREPARATIONS, replaces
from variants.acceleration.grouping import alike, stacked
from variants.acceleration.low_rank import Product, project
from variants.acceleration.overrides import Override
from variants.acceleration.side_stream import split
from variants.layer import full_precision, wide
from variants.methods.dora import DoRALayer

_SQUARES: WeakKeyDictionary[DoRALayer, tuple[tuple, Tensor]] = WeakKeyDictionary()
"""Of each layer: which base weight was read, and the sums of its rows' squares (out_features)."""


@replaces(FORWARDS, DoRALayer.forward)
def forward(layer: DoRALayer, x: Tensor, y: Tensor) -> Tensor:
    """As :meth:`DoRALayer.forward`."""
    h, dropped = layer.gain().to(y.dtype), layer.dropout(x) if layer.drops else x
    A, B, s, _, _ = layer.low_rank()
    updated = Product(project(dropped, A), B, s).added(y)
    if layer.drops and layer.config.dropout_mode == "official":
        return add_scaled(updated, h, layer.site.times(dropped) + (updated - y))
    return add_gain(updated, h, layer.site.bias())


@replaces(PREPARATIONS, DoRALayer.forward)
def gains(layers: Sequence[DoRALayer]) -> Iterator[Override]:
    """The gains of all layers, those of one shape computed together."""
    plain = [layer for layer in layers if (type(layer).gain, type(layer).norm) == (DoRALayer.gain, DoRALayer.norm)]
    for group in alike(plain, "lora_A", "lora_B", "scaling"):
        together = (stacked(group, "magnitude") / norms(group) - 1).to(group[0].site.dtype)
        for layer, h in zip(group, split(together), strict=True):
            yield layer, "gain", lambda h=h: h


@torch.no_grad()
def norms(layers: Sequence[DoRALayer]) -> Tensor:
    """‖W₀ + sBA‖ (layers, out_features) of layers of one shape and scale, from ‖W₀‖², W₀Aᵀ and AAᵀ.

    Neither BA nor the sum is ever formed.
    """
    with full_precision(layers[0].lora_A):
        s, A, B = layers[0].scaling, wide(stacked(layers, "lora_A")), wide(stacked(layers, "lora_B"))
        WA = torch.stack([_wide_product(layer.site.weight(), layer.lora_A) for layer in layers])
        twice = torch.baddbmm(WA, B, A @ A.mT, beta=2 * s, alpha=s**2)
        squares = torch.stack([_squares(layer) for layer in layers]) + (B * twice).sum(-1)
        return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()


def _squares(layer: DoRALayer) -> Tensor:
    """‖W₀‖² (out_features), computed again where the base weight is another or has been written to."""
    weight = layer.site.weight()
    version = None if weight.is_inference() else weight._version
    key = (weight.data_ptr(), version, weight.dtype, weight.device)
    known = _SQUARES.get(layer)
    if known is None or known[0] != key:
        with torch.inference_mode(False):
            known = _SQUARES[layer] = key, wide(weight.detach()).square().sum(dim=1)
    return known[1]


def _wide_product(weight: Tensor, a: Tensor) -> Tensor:
    """W Aᵀ in fp32 at least; a GPU sums products of bf16 in fp32 without widening them first."""
    if weight.is_cuda and weight.dtype == a.dtype == torch.bfloat16:
        return torch.mm(weight, a.T, out_dtype=torch.float32)
    return wide(weight) @ wide(a).T
