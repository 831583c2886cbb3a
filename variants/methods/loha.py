"""LoHa: the low-rank Hadamard product of FedPara (Hyeon-Woo et al. 2022, arXiv 2108.06098) as an adapter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from variants.layer import AdapterLayer, check_alpha
from variants.registry import register
from variants.variant import Variant


class LoHaLayer(AdapterLayer):
    """ΔW = (α/r)·(B₁A₁) ⊙ (B₂A₂), of a rank up to r², with A₂ = 0 at the start (proposition 1)."""

    def __init__(self, site, config: LoHa, rng: torch.Generator) -> None:
        super().__init__(site, config)
        r, n, m = config.r, site.in_features, site.out_features
        for name, shape in {"B1": (m, r), "A1": (r, n), "B2": (m, r)}.items():
            drawn = nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=rng)
            self.register_parameter(name, nn.Parameter(drawn))
        self.A2 = nn.Parameter(torch.zeros(r, n))
        self.scaling = check_alpha(config.alpha) / r

    def delta_weight(self) -> Tensor:
        """(α/r)·(B₁A₁) ⊙ (B₂A₂)."""
        return self.scaling * (self.B1 @ self.A1) * (self.B2 @ self.A2)


@register("loha")
@dataclass
class LoHa(Variant):
    """LoHa: the entrywise product of two low-rank matrices is added to each weight (arXiv 2108.06098).

    Args:
        r: rank of both matrices.
        alpha: scaling; the update is multiplied by alpha/r.
        dropout: probability of dropping an input of the update while training.
    """

    r: int = 8
    alpha: float = 8.0
    dropout: float = 0.0

    layer = LoHaLayer
    size = "r"
