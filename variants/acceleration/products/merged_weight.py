"""On a CPU, in an accelerated pass: one product with the updated weight W + s·BA where there were three and two sums.

Thin products are slow there, and every operation has a cost of its own. W + s·BA costs r multiplications for each entry
of the weight; what it saves grows with the number of tokens. Only in fp32 and above: the sum in bf16 loses the update.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.acceleration.basics.overrides import Override
from variants.acceleration.basics.policy import plain
from variants.acceleration.products.shared_input import frozen_linear
from variants.layer import LOW_PRECISION, AdapterLayer


def merged_weights(layers: Iterable[AdapterLayer]) -> Iterator[Override]:
    """Overrides: the maps whose layers add low-rank updates without inner and outer factors, and their hooks asleep."""
    for layer in layers:
        module = layer.site.module
        if _can(layer):
            yield module, "forward", partial(_forward, module, layer)
            yield module.adapter, "enabled", False


def _can(layer: AdapterLayer) -> bool:
    site = layer.site
    if site.device.type != "cpu" or site.dtype in LOW_PRECISION or not site.is_whole or not site.module.adapter.enabled:
        return False
    if layer.drops or not isinstance(site.module, nn.Linear) or not frozen_linear(site.module):
        return False
    if not layer.adds_low_rank:
        return False
    update = layer.low_rank()
    return update.inner is None and update.outer is None


def _forward(module: nn.Linear, layer: AdapterLayer, x: Tensor) -> Tensor:
    A, B, s, _, _ = layer.low_rank()
    if not plain(x) or {x.dtype, A.dtype, B.dtype} != {layer.site.dtype}:
        return module.adapter(x, nn.Linear.forward(module, x))
    with torch.no_grad():
        whole = torch.addmm(layer.site.weight(), B, A, alpha=s)
    return _MergedLinear.apply(x, A, B, s, whole, module.bias)


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
        rows, given = gradient.flatten(0, -2), x.flatten(0, -2)
        of_x = (rows @ whole).view_as(x) if wants_x else None
        of_A = B.t() @ rows.t() @ given * ctx.s if wants_A else None
        of_B = (A @ given.t() @ rows).t() * ctx.s if wants_B else None  # thin products are fast with few rows
        return of_x, of_A, of_B, None, None, None
