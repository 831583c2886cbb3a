"""VeRA: Vector-based Random Matrix Adaptation (Kopiczko et al. 2024, arXiv 2310.11454)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from variants.errors import VariantError
from variants.layer import AdapterLayer, LowRank, seeded
from variants.registry import register
from variants.variant import Variant

if TYPE_CHECKING:
    from variants.sites.site import Site


class Bank(nn.Module):
    """The frozen random A (r, in) and B (out, r) of all layers of one shape: Kaiming uniform, bound √(6/fan_in)."""

    def __init__(self, site: Site, config: VeRA) -> None:
        super().__init__()
        rng = seeded(config.projection_seed, f"{site.in_features}x{site.out_features}")
        for name, shape in (("A", (config.r, site.in_features)), ("B", (site.out_features, config.r))):
            matrix = nn.init.kaiming_uniform_(torch.empty(shape), generator=rng)
            self.register_buffer(name, matrix.to(site.device, site.dtype), persistent=config.save_projection)


class VeRALayer(AdapterLayer):
    """h = W₀x + Λ_b B Λ_d A x, with A and B frozen and shared, b = 0 at the start (eq. 2)."""

    def __init__(self, site, config: VeRA, rng: torch.Generator, banks: dict[tuple[Hashable, ...], Bank]) -> None:
        super().__init__(site, config)
        self.bank = banks[bank_key(site, config)]
        self.d = nn.Parameter(torch.full((config.r,), config.d_init))
        self.b = nn.Parameter(torch.zeros(site.out_features))

    def low_rank(self) -> LowRank:
        """Λ_b B Λ_d A (eq. 2)."""
        return LowRank(self.bank.A, self.bank.B, inner=self.d, outer=self.b)


@register("vera")
@dataclass
class VeRA(Variant):
    """VeRA: two trained vectors per weight between random matrices that all layers share (arXiv 2310.11454).

    Args:
        r: rank of the shared matrices; it may exceed the layer's size.
        d_init: initial value of the vector d.
        projection_seed: of the shared matrices, apart from the run's seed.
        save_projection: put the shared matrices into the adapter file; they are made from their seed otherwise.
    """

    r: int = 256
    d_init: float = 0.1
    projection_seed: int = 0
    save_projection: bool = False

    layer = VeRALayer
    size = "r"

    def __post_init__(self) -> None:
        if self.r < 1:
            raise VariantError(f"r must be at least 1, not {self.r}")

    def shared(self, sites: Sequence[Site], seed: int) -> dict[str, Any]:
        """A bank of random matrices for each shape, rank, device and dtype."""
        alike = {bank_key(site, config): (site, config) for site in sites for config in [self.at(site.path)]}
        return {"banks": {key: Bank(*one) for key, one in alike.items()}}


def bank_key(site: Site, config: VeRA) -> tuple[Hashable, ...]:
    """Sites with one key share a bank: one of their shape, where their weight is and in its dtype."""
    return config.r, site.in_features, site.out_features, site.device, site.dtype
