"""MiSS: Balancing LoRA Performance and Efficiency with Simple Shard Sharing (Kang et al. 2024, arXiv 2409.15371)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from variants.layer import AdapterLayer, LowRank, check_rank
from variants.registry import register
from variants.variant import Variant


class MiSSLayer(AdapterLayer):
    """h = W₀x + Dᵀ·S(x), where S sums the pieces of r features that x falls into, and D (r, out) is 0 at the start.

    S is a frozen matrix (r, in) of identities side by side.
    """

    def __init__(self, site, config: MiSS, rng: torch.Generator) -> None:
        super().__init__(site, config)
        r, n = check_rank(config.r, site), site.in_features
        self.D = nn.Parameter(torch.zeros(r, site.out_features))
        self.register_buffer("S", torch.eye(r).repeat(1, -(-n // r))[:, :n].contiguous(), persistent=False)

    def low_rank(self) -> LowRank:
        """DᵀS."""
        return LowRank(self.S, self.D.mT)


@register("miss")
@dataclass
class MiSS(Variant):
    """MiSS: one trained shard of the weight is shared by all pieces of the input (arXiv 2409.15371).

    Args:
        r: size of the pieces, and rank of the update.
        dropout: probability of dropping an input of the update while training.
    """

    r: int = 32
    dropout: float = 0.0

    layer = MiSSLayer
    size = "r"
