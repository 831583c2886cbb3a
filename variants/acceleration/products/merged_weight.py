"""On a CPU, in an accelerated pass: one product with the updated weight W + s·BA where there were three and two sums.

Thin products are slow there, and every operation has a cost of its own. W + s·BA costs r multiplications for each entry
of the weight; what it saves grows with the number of tokens. Only in fp32 and above: the sum in bf16 loses the update.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.acceleration.basics.overrides import Override
from variants.acceleration.basics.policy import plain
from variants.acceleration.products.shared_input import frozen_linear
from variants.adapters.hooks import SiteAdapters
from variants.layer import LOW_PRECISION, AdapterLayer, rows


def merged_weights(layers: Iterable[AdapterLayer]) -> Iterator[Override]:
    """Overrides: the maps whose layers add low-rank updates without inner and outer factors, and what their hooks
    call."""
    for layer in layers:
        if _can(layer):
            yield from _MergedMap(layer.site.module, layer).overrides()


def _can(layer: AdapterLayer) -> bool:
    site = layer.site
    if site.device.type != "cpu" or site.dtype in LOW_PRECISION or not site.is_whole or not site.module.adapter.enabled:
        return False
    if layer.drops or type(site.module) is not nn.Linear or not frozen_linear(site.module):
        return False
    if site.in_shards:  # the updated weights, kept for the backward pass, would be the whole base
        return False
    return layer.adds_low_rank and layer.low_rank_factors == {"A", "B"}


class _MergedMap:
    """A map that multiplies by the updated weight; its hook then adds nothing."""

    def __init__(self, module: nn.Linear, layer: AdapterLayer) -> None:
        self.module, self.layer = module, layer
        self._complete = False  # the output that the hook is about to get has the update in it

    def overrides(self) -> Iterator[Override]:
        """Of the module and of what its hook calls."""
        yield self.module, "forward", self._forward
        yield self.module.adapter, "forward", self._adapt

    def _forward(self, input: Tensor) -> Tensor:
        A, B, s, _, _ = self.layer.low_rank()
        self._complete = plain(input) and {input.dtype, A.dtype, B.dtype} == {self.layer.site.dtype}
        if not self._complete:
            return nn.Linear.forward(self.module, input)
        with torch.no_grad():
            whole = torch.addmm(self.layer.site.weight(), B, A, alpha=s)
        return _MergedLinear.apply(input, A, B, s, whole, self.module.bias)

    def _adapt(self, x: Tensor, y: Tensor) -> Tensor:
        if self._complete:
            self._complete = False
            return y
        return SiteAdapters.forward(self.module.adapter, x, y)


class _MergedLinear(torch.autograd.Function):
    """x W'ᵀ + b with W' = W + s·BA, of which A and B train."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor, B: Tensor, s: float, whole: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, A, B, whole)
        ctx.s = s
        return F.linear(x, whole, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, A, B, whole = ctx.saved_tensors
        wants_x, wants_A, wants_B = ctx.needs_input_grad[:3]
        of_y, given = rows(gradient), rows(x)
        of_x = (of_y @ whole).view_as(x) if wants_x else None
        of_A = B.t() @ of_y.t() @ given * ctx.s if wants_A else None
        of_B = (A @ given.t() @ of_y).t() * ctx.s if wants_B else None  # thin products are fast with few rows
        return of_x, of_A, of_B, None, None, None
