"""Adapter^D: AdapterDrop: On the Efficiency of Adapters in Transformers (Rücklé et al. 2021, arXiv 2010.11918)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from variants.adapter_p import AdapterP, PfeifferLayer
from variants.layer import AdapterLayer, seeded
from variants.registry import register
from variants.sites import Site
from variants.variant import VariantError


class DroppedLayer(PfeifferLayer):
    """Adapter^P that is left out of a training step if its block is below n, drawn anew for each (section 3.2)."""

    training_only = ("dropped",)

    def __init__(self, site, config: AdapterD, rng: torch.Generator, first: list[DroppedLayer], seed: int) -> None:
        super().__init__(site, config, rng)
        self.seed = seed
        self.register_buffer("dropped", torch.zeros(()))
        if config.share and first:
            self._parameters.clear()
            self.first = first[0]
        first.append(self)

    def bottleneck(self, h: Tensor) -> Tensor:
        delta = self.first.bottleneck(h) if hasattr(self, "first") else super().bottleneck(h)
        return (1 - self.dropped) * delta if self.training else delta


@register("adapter_d")
@dataclass
class AdapterD(AdapterP):
    """Adapter^D: Adapter^P without the adapters of the lowest blocks (AdapterDrop, arXiv 2010.11918).

    (L - drop)·(2·d·r + r + d) parameters, or as many as one adapter has if they share them.

    Args:
        drop: how many of the lowest blocks have no adapter at all (the paper's specialised AdapterDrop).
        robust: leave out a random number of the lowest adapters in each training step (the paper's robust AdapterDrop),
            so that they can be left out of the trained model by a larger drop.
        share: all blocks share one adapter (the paper's cross-layer parameter sharing).
    """

    r: int = 48
    drop: int = 0
    robust: bool = True
    share: bool = False

    layer = DroppedLayer

    def sites(self, model: nn.Module) -> list[Site]:
        sites = super().sites(model)
        if not 0 <= self.drop < len(sites):
            raise VariantError(f"drop={self.drop} leaves none of {len(sites)} blocks: it must lie in [0, {len(sites)})")
        return sites[self.drop :]

    def shared(self, sites: Sequence[Site], seed: int) -> dict[str, Any]:
        return {"first": [], "seed": seed}

    def after_step(self, layers: Sequence[AdapterLayer], step: int, total_steps: int) -> None:
        if self.robust:
            rng = seeded(layers[0].seed, f"AdapterDrop after step {step}")
            dropped = int(torch.randint(len(layers), (), generator=rng))
            for index, layer in enumerate(layers):
                layer.dropped.fill_(index < dropped)
