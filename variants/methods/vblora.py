"""VB-LoRA: Extreme Parameter Efficient Fine-Tuning with Vector Banks (Li et al. 2024, arXiv 2405.15179)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from variants.errors import VariantError
from variants.layer import AdapterLayer, LowRank, seeded
from variants.registry import register
from variants.variant import Variant

if TYPE_CHECKING:
    from variants.sites.site import Site


class Bank(nn.Module):
    """h vectors (h, b), trained, that all layers are made of: uniform in ±0.02."""

    def __init__(self, config: VBLoRA, length: int, seed: int) -> None:
        super().__init__()
        vectors = torch.empty(config.vectors, length)
        self.vectors = nn.Parameter(vectors.uniform_(-0.02, 0.02, generator=seeded(seed, "vector bank")))


class VBLoRALayer(AdapterLayer):
    """ΔW = BA, whose rows and columns are cut into sub-vectors of length b, each a mixture of the bank's top k vectors
    by a softmax over its own logits (eqs. 2 and 3)."""

    sparse = ("logits_A", "logits_B", "bank.vectors")

    def __init__(self, site, config: VBLoRA, rng: torch.Generator, bank: Bank) -> None:
        super().__init__(site, config)
        self.bank, (h, b), r = bank, bank.vectors.shape, config.r
        self.logits_A = nn.Parameter(torch.empty(r, site.in_features // b, h).normal_(0, 0.1, generator=rng))
        self.logits_B = nn.Parameter(torch.empty(site.out_features // b, r, h).normal_(0, 0.1, generator=rng))

    def mixed(self, logits: Tensor) -> Tensor:
        """The sub-vectors that the logits (..., h) choose, (..., b)."""
        top, which = logits.topk(self.config.k, dim=-1)
        return (top.softmax(dim=-1)[..., None] * self.bank.vectors[which]).sum(dim=-2)

    def low_rank(self) -> LowRank:
        """BA."""
        A, B = self.mixed(self.logits_A), self.mixed(self.logits_B)
        return LowRank(A.flatten(1), B.mT.flatten(0, 1))


@register("vblora")
@dataclass
class VBLoRA(Variant):
    """VB-LoRA: all factors of all maps are mixtures of vectors from one trained bank (arXiv 2405.15179).

    Args:
        r: rank of the update.
        vectors: h, how many the bank holds.
        length: b, of a vector; the greatest divisor that it has in common with the sides of all maps is taken.
        k: how many vectors are mixed.
        bank_rate: rate of the bank over the run's.
        dropout: probability of dropping an input of the update while training.
    """

    r: int = 4
    vectors: int = 90
    length: int = 256
    k: int = 2
    bank_rate: float = 0.1
    dropout: float = 0.0

    layer = VBLoRALayer
    size = "r"
    identity_at_start = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.k <= self.vectors or self.length < 1:
            raise VariantError(f"k={self.k} must lie between 1 and vectors={self.vectors}, and length must be above 0")

    def shared(self, sites: Sequence[Site], seed: int) -> dict[str, Any]:
        """The bank."""
        sides = (side for site in sites for side in (site.in_features, site.out_features))
        return {"bank": Bank(self, math.gcd(self.length, *sides), seed)}

    def param_groups(self, layers: Sequence[VBLoRALayer], lr: float) -> list[dict[str, Any]]:
        """Logits at the run's rate, the bank at its own."""
        logits = [each for layer in layers for each in (layer.logits_A, layer.logits_B)]
        bank = list({id(layer.bank.vectors): layer.bank.vectors for layer in layers}.values())
        return [{"params": logits, "lr": lr}, {"params": bank, "lr": self.bank_rate * lr}]
