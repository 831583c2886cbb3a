"""RandLoRA: Full-Rank Parameter-Efficient Fine-Tuning of Large Models (Albert et al. 2025, arXiv 2502.00987)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from variants.layer import AdapterLayer, LowRank, check_alpha, seeded
from variants.registry import register
from variants.variant import Variant

if TYPE_CHECKING:
    from variants.sites.site import Site


class Bases(nn.Module):
    """The frozen A (r, short) and B (long, r, n) of all maps of two sides, Kaiming uniform, of deviation 1."""

    def __init__(self, site: Site, config: RandLoRA) -> None:
        super().__init__()
        short, long = sorted((site.in_features, site.out_features))
        rng = seeded(config.projection_seed, f"{short}x{long}")
        for name, shape in (("A", (config.r, short)), ("B", (long, config.r, math.ceil(short / config.r)))):
            drawn = nn.init.kaiming_uniform_(torch.empty(shape), a=math.sqrt(5), generator=rng)
            spread = drawn.std() if drawn.numel() > 1 else 1.0
            self.register_buffer(name, (drawn / spread).to(site.device, site.dtype), persistent=config.save_projection)


class RandLoRALayer(AdapterLayer):
    """ΔW = (α/r)·Σⱼ Bⱼ Λⱼ A Γⱼ over as many random bases as full rank takes; Λ = 0 at the start (eq. 3).

    A stands on the shorter side of the weight; where that is the output, the sum is transposed.
    """

    def __init__(self, site, config: RandLoRA, rng: torch.Generator, bases: dict[tuple[Hashable, ...], Bases]) -> None:
        super().__init__(site, config)
        self.bases = bases[bases_key(site, config)]
        (_, r, n), short = self.bases.B.shape, self.bases.A.shape[1]
        self.Lambda = nn.Parameter(torch.zeros(r, n))
        self.Gamma = nn.Parameter(torch.full((n, short), 1 / max(n, short)))
        self.scaling = check_alpha(config.alpha) / r

    def low_rank(self) -> LowRank:
        """All bases side by side, (r·n) of them."""
        short = (self.Lambda[..., None] * self.bases.A[:, None] * self.Gamma).flatten(0, 1)
        long = self.bases.B.flatten(1)
        wide = self.site.in_features > self.site.out_features
        return LowRank(long.mT, short.mT, self.scaling) if wide else LowRank(short, long, self.scaling)


@register("randlora")
@dataclass
class RandLoRA(Variant):
    """RandLoRA: a sum of random low-rank matrices of full rank together, each scaled by trained diagonals (arXiv
    2502.00987).

    Args:
        r: rank of each random matrix; a smaller one takes more of them and trains more.
        alpha: scaling; the update is multiplied by alpha/r.
        dropout: probability of dropping an input of the update while training.
        projection_seed: of the random matrices, apart from the run's seed.
        save_projection: put the random matrices into the adapter file; they are made from their seed otherwise.
    """

    r: int = 32
    alpha: float = 640.0
    dropout: float = 0.0
    projection_seed: int = 0
    save_projection: bool = False

    layer = RandLoRALayer

    def shared(self, sites: Sequence[Site], seed: int) -> dict[str, Any]:
        """The bases of each shape, rank, device and dtype."""
        alike = {bases_key(site, config): (site, config) for site in sites for config in [self.at(site.path)]}
        return {"bases": {key: Bases(*one) for key, one in alike.items()}}


def bases_key(site: Site, config: RandLoRA) -> tuple[Hashable, ...]:
    """Maps with one key share bases: those of two sides, where their weight is and in its dtype."""
    return config.r, *sorted((site.in_features, site.out_features)), site.device, site.dtype
