"""DoRA: Weight-Decomposed Low-Rank Adaptation (Liu et al. 2024, arXiv 2402.09353)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.acceleration.elementwise import add_gain, add_scaled
from variants.acceleration.low_rank import Product, project
from variants.acceleration.overrides import Standin
from variants.acceleration.policy import vmapped
from variants.acceleration.side_stream import apart
from variants.grouping import alike, stacked
from variants.layer import full_precision
from variants.methods.lora import LoRA, LoRALayer
from variants.registry import register


class DoRALayer(LoRALayer):
    """W' = m · (W₀ + sBA) / ‖W₀ + sBA‖, norms per output feature, m = ‖W₀‖ at the start (eq. 5).

    The norm is a constant to the gradient (section 4.3). With h = m/‖W₀ + sBA‖ - 1 the output is LoRA's plus
    h·(W₀x + s·BAx), the bias apart; it is y itself where h = 0 and B = 0.
    """

    def __init__(self, site, config: DoRA, rng: torch.Generator) -> None:
        super().__init__(site, config, rng)
        squares = _wide(site.weight().detach()).square().sum(dim=1)
        self.register_buffer("weight_squares", squares, persistent=False)
        self.magnitude = nn.Parameter(squares.sqrt())

    def norm(self) -> Tensor:
        """‖W₀ + sBA‖ (out_features), in fp32 at least."""
        return norms([self])[0]

    def gain(self) -> Tensor:
        """h (out_features); near 0 it keeps the digits in bf16 that m/‖W₀ + sBA‖, near 1, would lose."""
        return self.magnitude / self.norm() - 1

    def delta_weight(self) -> Tensor:
        h, W = self.gain()[:, None], self.site.weight()
        return h * W + (1 + h) * super().delta_weight()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h, dropped = self.gain().to(y.dtype), self.after_dropout(x)
        updated = Product(project(dropped, self.lora_A), self.lora_B, self.scaling).added(y)
        if self.drops() and self.config.dropout_mode == "official":
            return add_scaled(updated, h, F.linear(dropped, self.site.weight()) + (updated - y))
        return add_gain(updated, h, self.site.bias())


@torch.no_grad()
def norms(layers: Sequence[DoRALayer]) -> Tensor:
    """‖W₀ + sBA‖ (layers, out_features) of layers of one shape and scale, from ‖W₀‖², W₀Aᵀ and AAᵀ.

    Neither BA nor the sum is ever formed.
    """
    with full_precision(layers[0].lora_A):
        s, A, B = layers[0].scaling, _wide(stacked(layers, "lora_A")), _wide(stacked(layers, "lora_B"))
        WA = torch.stack([_wide_product(layer.site.weight(), layer.lora_A) for layer in layers])
        twice = torch.baddbmm(WA, B, A @ A.mT, beta=2 * s, alpha=s**2)
        squares = stacked(layers, "weight_squares") + (B * twice).sum(-1)
        return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()


def _wide(tensor: Tensor) -> Tensor:
    """In fp32 at least: squares summed in bf16 have three digits."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _wide_product(weight: Tensor, a: Tensor) -> Tensor:
    """W Aᵀ in fp32 at least; a GPU sums products of bf16 in fp32 without widening them first."""
    if weight.is_cuda and weight.dtype == a.dtype == torch.bfloat16 and not vmapped():  # which has no rule for it
        return torch.mm(weight, a.T, out_dtype=torch.float32)
    return _wide(weight) @ _wide(a).T


@register("dora")
@dataclass
class DoRA(LoRA):
    """DoRA: magnitude and direction of each weight row, the direction updated by LoRA (arXiv 2402.09353).

    Args:
        dropout_mode: what dropout acts on: official (both corrections, as the authors' code and PEFT; costs a second
            product with W₀ while training) or lora-only (the low-rank branch alone, as torchtune).
    """

    dropout_mode: Literal["official", "lora-only"] = "official"

    layer = DoRALayer

    def prepared(self, layers: Sequence[DoRALayer]) -> Iterator[Standin]:
        for group in alike(layers, "lora_A", "lora_B", "scaling"):
            gains = (stacked(group, "magnitude") / norms(group) - 1).to(group[0].site.dtype)
            for layer, h in zip(group, apart(gains), strict=True):
                yield layer, "gain", lambda h=h: h
