"""DoRA: Weight-Decomposed Low-Rank Adaptation (Liu et al. 2024, arXiv 2402.09353)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from variants.layer import full_precision, wide
from variants.methods.lora import LoRA, LoRALayer
from variants.registry import register

SMALLEST = 1e-12
"""Norms are at least this: a direction may cancel the weight."""


class DoRALayer(LoRALayer):
    """W' = m · (W₀ + sBA) / ‖W₀ + sBA‖, norms per output feature, m = ‖W₀‖ at the start (eq. 5).

    The norm is a constant to the gradient (section 4.3). With h = m/‖W₀ + sBA‖ - 1 the output is LoRA's plus
    h·(W₀x + s·BAx), the bias apart; it is y itself where h = 0 and B = 0.
    """

    per_token = True

    def __init__(self, site, config: DoRA, rng: torch.Generator) -> None:
        super().__init__(site, config, rng)
        self.magnitude = nn.Parameter(torch.linalg.vector_norm(wide(site.weight().detach()), dim=1))

    @torch.no_grad()
    def norm(self) -> Tensor:
        """‖W₀ + sBA‖ (out_features), in fp32 at least."""
        with full_precision(self.lora_A):
            updated = wide(self.site.weight()) + wide(self.low_rank().delta_weight())
            return torch.linalg.vector_norm(updated, dim=1).clamp_min(SMALLEST)

    def gain(self) -> Tensor:
        """h (out_features); near 0 it keeps the digits in bf16 that m/‖W₀ + sBA‖, near 1, would lose."""
        return self.magnitude / self.norm() - 1

    def delta_weight(self) -> Tensor:
        """W' - W₀ = h W₀ + (1 + h) s·BA."""
        h, W = self.gain()[:, None], self.site.weight()
        return h * W + (1 + h) * super().delta_weight()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """y + s·BAx + h·(W₀x + s·BAx), what dropout acts on being the variant's option."""
        h, dropped = self.gain().to(y.dtype), self.dropout(x)
        updated = self.low_rank().added(y, dropped)
        if self.drops and self.config.dropout_mode == "official":
            return updated + h * (self.site.times(dropped) + (updated - y))
        bias = self.site.bias()
        return updated + h * (updated if bias is None else updated - bias)


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
    rank_option = "r"
