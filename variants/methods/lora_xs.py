"""LoRA-XS: Low-Rank Adaptation with Extremely Small Number of Parameters (Bałazy et al. 2024, arXiv 2405.17604)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from variants.layer import AdapterLayer, LowRank, check_alpha, check_rank
from variants.methods.pissa import singular
from variants.registry import register
from variants.variant import Variant


class LoRAXSLayer(AdapterLayer):
    """h = W₀x + (α/r)·U_rΣ_r·R·V_rᵀ·x, where U_rΣ_rV_rᵀ is the principal part of W₀ and R alone trains (section 2)."""

    def __init__(self, site, config: LoRAXS, rng: torch.Generator) -> None:
        super().__init__(site, config)
        r = check_rank(config.r, site)
        U, S, V = singular(site.weight())
        self.register_buffer("A", V[:r].contiguous(), persistent=config.save_projection)
        self.register_buffer("B", U[:, :r] * S[:r], persistent=config.save_projection)
        self.R = nn.Parameter(torch.empty(r, r).normal_(0, config.std, generator=rng))
        self.scaling = check_alpha(config.alpha) / r

    def low_rank(self) -> LowRank:
        """(α/r)·B R A with B = U_rΣ_r and A = V_rᵀ."""
        return LowRank(self.A, self.B, self.scaling, inner=self.R)


@register("lora_xs")
@dataclass
class LoRAXS(Variant):
    """LoRA-XS: an r × r matrix trains between frozen singular vectors of the weight (arXiv 2405.17604).

    Args:
        r: rank of the update.
        alpha: scaling; the update is multiplied by alpha/r.
        dropout: probability of dropping an input of the update while training.
        std: standard deviation of R at the start.
        save_projection: put the singular vectors into the adapter file; they are computed from the weight otherwise.
    """

    r: int = 16
    alpha: float = 16.0
    dropout: float = 0.0
    std: float = 1e-5
    save_projection: bool = False

    layer = LoRAXSLayer
    size = "r"
    identity_at_start = False  # but for std = 0
