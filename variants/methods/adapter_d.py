"""Adapter^D: AdapterDrop: On the Efficiency of Adapters in Transformers (Rücklé et al. 2021, arXiv 2010.11918)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from variants.errors import VariantError
from variants.layer import AdapterLayer, seeded
from variants.methods.adapter_p import AdapterP, PfeifferLayer
from variants.registry import register
from variants.sites.ranges import block_number
from variants.sites.site import Site


class DroppedLayer(PfeifferLayer):
    """Adapter^P that is left out of a training step if its block is below n, drawn anew for each (section 3.2)."""

    training_only = ("dropped",)

    def __init__(self, site, config: AdapterD, rng: torch.Generator, first: list[DroppedLayer], seed: int) -> None:
        super().__init__(site, config, rng)
        self.register_buffer("draws", torch.rand(4096, generator=seeded(seed, "AdapterDrop")), persistent=False)
        self.register_buffer("dropped", torch.zeros(()))
        first.append(self)
        if config.share:
            self._parameters.update(first[0]._parameters)

    def bottleneck(self, h: Tensor) -> Tensor:
        """The shared or own bottleneck, 0 in a training step that leaves it out."""
        delta = super().bottleneck(h)
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drop < 0:
            raise VariantError(f"drop must be at least 0, not {self.drop}")

    def sites(self, model: nn.Module) -> list[Site]:
        """The ends of the blocks from number ``drop`` on."""
        sites = [site for site in super().sites(model) if block_number(site.path) >= self.drop]
        if not sites:
            raise VariantError(f"drop={self.drop} leaves no block of {type(model).__name__} that would get an adapter")
        return sites

    def shared(self, sites: Sequence[Site], seed: int) -> dict[str, Any]:
        """The list of layers, whose first one they may share, and the seed of what is dropped."""
        return {"first": [], "seed": seed}

    def after_step(self, layers: Sequence[AdapterLayer], step: int, total_steps: int) -> None:
        """Draw how many of the lowest adapters the next step leaves out."""
        if self.robust:
            draws = layers[0].draws  # a number in [0, 1) for each step, over again after the last
            dropped = (draws[step % len(draws)] * len(layers)).floor()
            for index, layer in enumerate(layers):
                layer.dropped.copy_(index < dropped)
