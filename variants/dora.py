"""DoRA: Weight-Decomposed Low-Rank Adaptation (Liu et al. 2024, arXiv 2402.09353)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.layer import add_product, full_precision
from variants.lora import LoRA, LoRALayer
from variants.registry import register


class DoRALayer(LoRALayer):
    """W' = m · (W₀ + sBA) / ‖W₀ + sBA‖, norms per output feature, m = ‖W₀‖ at the start (eq. 5).

    The norm is a constant to the gradient (section 4.3). With h = m/‖W₀ + sBA‖ - 1 the output is LoRA's plus
    h·(W₀x + s·BAx), the bias apart; it is y itself where h = 0 and B = 0.
    """

    def __init__(self, site, config: DoRA, rng: torch.Generator) -> None:
        super().__init__(site, config, rng)
        squares = self._wide(site.weight().detach()).square().sum(dim=1)
        self.register_buffer("weight_squares", squares, persistent=False)
        self.magnitude = nn.Parameter(squares.sqrt())

    @torch.no_grad()
    def norm(self) -> Tensor:
        """‖W₀ + sBA‖ per output feature from ‖W₀‖², W₀Aᵀ and AAᵀ: neither BA nor the sum is ever formed."""
        s, W, A, B = self.scaling, *map(self._wide, (self.site.weight(), self.lora_A, self.lora_B))
        with full_precision(A):
            squares = self.weight_squares + (B * (2 * s * (W @ A.T) + s**2 * (B @ (A @ A.T)))).sum(dim=1)
            return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()

    @staticmethod
    def _wide(tensor: Tensor) -> Tensor:
        """In fp32 at least: squares summed in bf16 have three digits."""
        return tensor.to(torch.promote_types(tensor.dtype, torch.float32))

    def delta_weight(self) -> Tensor:
        g, W = (self.magnitude / self.norm())[:, None], self.site.weight()
        return (g - 1) * W + g * super().delta_weight()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = (self.magnitude / self.norm() - 1).to(y.dtype)  # near 0, where bf16 keeps the digits that it loses near 1
        dropped, bias = self.dropout(x), self.site.bias()
        updated = add_product(y, F.linear(dropped, self.lora_A), self.lora_B, self.scaling)
        if self.training and self.config.dropout > 0 and self.config.dropout_mode == "official":
            return torch.addcmul(updated, h, F.linear(dropped, self.site.weight()) + (updated - y))
        return torch.addcmul(updated, h, updated if bias is None else updated - bias)


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
