"""LoRA: Low-Rank Adaptation of Large Language Models (Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from variants.errors import VariantError
from variants.layer import AdapterLayer, LowRank, check_alpha
from variants.registry import register
from variants.variant import Variant


class LoRALayer(AdapterLayer):
    """h = W₀x + (α/r)·B·A·x, with B = 0 at the start (section 4.1, eq. 3)."""

    def __init__(self, site, config: LoRA, rng: torch.Generator) -> None:
        super().__init__(site, config)
        r = config.r
        self.lora_A = nn.Parameter(torch.empty(r, site.in_features))
        self.lora_B = nn.Parameter(torch.zeros(site.out_features, r))
        self.scaling = check_alpha(config.alpha) / (math.sqrt(r) if config.rslora else r)
        if config.init == "gaussian":
            nn.init.normal_(self.lora_A, std=0.02, generator=rng)
        else:
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5), generator=rng)

    def low_rank(self) -> LowRank:
        """(α/r)·B·A (eq. 3)."""
        return LowRank(self.lora_A, self.lora_B, self.scaling)


@register("lora")
@dataclass
class LoRA(Variant):
    """LoRA: a trained low-rank update beside each frozen weight (arXiv 2106.09685).

    Args:
        r: rank of the update.
        alpha: scaling; the update is multiplied by alpha/r.
        dropout: probability of dropping an input of A while training.
        init: of A: kaiming (uniform, a=√5: the authors' code) or gaussian (the paper; σ = 0.02 as in the authors'
            DeBERTa code).
        rslora: scale by alpha/√r instead (Kalajdzievski 2023, arXiv 2312.03732).
    """

    r: int = 8
    alpha: float = 8.0
    dropout: float = 0.0
    init: Literal["kaiming", "gaussian"] = "kaiming"
    rslora: bool = False

    layer = LoRALayer
    size = rank_option = "r"

    def __post_init__(self) -> None:
        if self.r < 1:
            raise VariantError(f"r must be at least 1, not {self.r}")
        if not 0 <= self.dropout < 1:
            raise VariantError(f"dropout must lie in [0, 1), not {self.dropout}")
