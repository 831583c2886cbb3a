"""HRA: Bridging the Gap between Low-rank and Orthogonal Adaptation via Householder Reflection (Yuan et al. 2024,
arXiv 2405.17484)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from variants.layer import AdapterLayer, LowRank, full_precision, wide
from variants.registry import register
from variants.variant import Variant


class HRALayer(AdapterLayer):
    """W = W₀·Π(I - 2uᵢuᵢᵀ) with unit vectors u₁ ... u_r, in pairs of equal ones at the start (eq. 2).

    The product of reflections is I - U T Uᵀ with T⁻¹ = ½I + the part of UᵀU above its diagonal, so that the update is
    of low rank: -(W₀U) T Uᵀ.
    """

    def __init__(self, site, config: HRA, rng: torch.Generator) -> None:
        super().__init__(site, config)
        half = torch.empty(site.in_features, config.pairs)
        nn.init.kaiming_uniform_(half, a=math.sqrt(5), generator=rng)
        self.u = nn.Parameter(half.repeat_interleave(2, dim=1))

    def low_rank(self) -> LowRank:
        """-(W₀U) T Uᵀ."""
        with full_precision(self.u):
            U = nn.functional.normalize(wide(self.u), dim=0)
            eye = torch.eye(U.shape[1], device=U.device, dtype=U.dtype)
            T = torch.linalg.solve_triangular((U.mT @ U).triu(1) + eye / 2, eye, upper=True)
            WU = self.site.times(U.mT.to(self.site.dtype)).mT
        return LowRank(U.mT.to(self.u.dtype), WU.to(self.u.dtype), -1.0, inner=T.to(self.u.dtype))


@register("hra")
@dataclass
class HRA(Variant):
    """HRA: the input of each map goes through a chain of trained reflections (arXiv 2405.17484).

    Args:
        pairs: half the number r of reflections, which start in pairs that undo each other.
        dropout: probability of dropping an input of the update while training.
    """

    pairs: int = 4
    dropout: float = 0.0

    layer = HRALayer
    size = "pairs"
