"""Adapter^L: Exploring Versatile Generative Language Model Via Parameter-Efficient Transfer Learning (Lin et al. 2020,
arXiv 2004.03829)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.methods.adapter_h import AdapterH, BottleneckLayer
from variants.registry import register
from variants.sites.site import Site


class NormedBottleneckLayer(BottleneckLayer):
    """h ← h + f(LN(h)·W_down + b_down)·W_up + b_up: the adapter has a LayerNorm of its own."""

    def __init__(self, site, config: AdapterL, rng: torch.Generator) -> None:
        super().__init__(site, config, rng)
        self.norm_weight = nn.Parameter(torch.ones(site.out_features))
        self.norm_bias = nn.Parameter(torch.zeros(site.out_features))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """h + bottleneck(LN(h)), (..., d)."""
        normed = F.layer_norm(y.to(self.norm_weight.dtype), y.shape[-1:], self.norm_weight, self.norm_bias)
        return y + self.bottleneck(normed)


@register("adapter_l")
@dataclass
class AdapterL(AdapterH):
    """Adapter^L: one bottleneck with a LayerNorm of its own on top of each block (arXiv 2004.03829).

    L·(2·d·r + r + d) parameters, and 2·d for each LayerNorm.

    Args:
        activation: f.
    """

    activation: Literal["gelu", "relu", "silu", "tanh"] = "relu"

    layer = NormedBottleneckLayer

    def sites(self, model: nn.Module) -> list[Site]:
        """The ends of the blocks."""
        from variants.sites.blocks import block_outputs

        return block_outputs(model, self.layers)
