"""DeLoRA: Decoupling Angles and Strength in Low-rank Adaptation (Bini et al. 2025, arXiv 2503.18225)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from variants.errors import VariantError
from variants.layer import AdapterLayer, LowRank, wide
from variants.registry import register
from variants.variant import Variant

SMALLEST = 1e-4
"""Norms are at least this."""


class DeLoRALayer(AdapterLayer):
    """ΔW = (λ/r)·B Ξ A·diag(‖W₀‖) with Ξ = diag(1/(‖bᵢ‖‖aᵢ‖)) and norms of W₀'s columns (eqs. 5 and 6).

    As in PEFT and unlike the paper, which takes the first update off the weight, B is 0 at the start.
    """

    def __init__(self, site, config: DeLoRA, rng: torch.Generator) -> None:
        super().__init__(site, config)
        A = torch.empty(config.r, site.in_features)
        self.A = nn.Parameter(nn.init.kaiming_uniform_(A, a=math.sqrt(5), generator=rng))
        self.B = nn.Parameter(torch.zeros(site.out_features, config.r))
        self.strength = nn.Parameter(torch.tensor([float(config.strength)]))
        self.register_buffer("norm", torch.linalg.vector_norm(wide(site.weight().detach()), dim=0), persistent=False)

    def low_rank(self) -> LowRank:
        """(λ/r)·B Ξ A·diag(‖W₀‖)."""
        inner = self.strength / len(self.A) / (length(self.A, 1) * length(self.B, 0))
        return LowRank(self.A * self.norm, self.B, inner=inner)


def length(tensor: Tensor, dim: int) -> Tensor:
    """Norms along a dimension, of at least :data:`SMALLEST`."""
    return torch.linalg.vector_norm(wide(tensor), dim=dim).clamp_min(SMALLEST)


@register("delora")
@dataclass
class DeLoRA(Variant):
    """DeLoRA: LoRA whose factors are normalised, so that a trained strength alone bounds the update (arXiv 2503.18225).

    Args:
        r: rank of the update.
        strength: λ at the start.
        dropout: probability of dropping an input of the update while training.
    """

    r: int = 8
    strength: float = 15.0
    dropout: float = 0.0

    layer = DeLoRALayer
    size = "r"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strength <= 0:
            raise VariantError(f"strength must be above 0, not {self.strength:g}")
