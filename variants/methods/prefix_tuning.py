"""Prefix-Tuning: Optimizing Continuous Prompts for Generation (Li and Liang 2021, arXiv 2101.00190)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from variants.layer import AdapterLayer
from variants.methods.prefix_embed import PrefixEmbed
from variants.prefix_room import Room, RoomLayer
from variants.registry import register
from variants.sites.site import Site


class KeysOrValuesLayer(AdapterLayer):
    """K ← [P_K; K] or V ← [P_V; V] (section 4.2, eq. 3): p trained rows before those that the text gives."""

    def __init__(self, site, config: PrefixTuning, rng: torch.Generator, room: Room) -> None:
        super().__init__(site, config)
        self.room = room
        self.prefix = nn.Parameter(torch.empty(config.p, site.out_features))
        nn.init.normal_(self.prefix, std=config.std, generator=rng)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Keys or values (batch, tokens + p, d) with the trained rows in the room of the prefix."""
        return self.room.fill(y, self.prefix)


@register("prefix_tuning")
@dataclass
class PrefixTuning(PrefixEmbed):
    """Prefix tuning: the keys and values of p tokens before the text train in every block (arXiv 2101.00190).

    2·L·d·p parameters. They train as they are: the paper computes them by a perceptron while it trains (section 4.3)
    and throws that away afterwards.
    """

    def layer(self, site: Site, config: PrefixTuning, rng: torch.Generator, room: Room) -> AdapterLayer:
        """Room on the backbone, trained rows on its keys and values."""
        return (RoomLayer if site.module is room.backbone else KeysOrValuesLayer)(site, config, rng, room)

    def sites(self, model: nn.Module) -> list[Site]:
        """The backbone and the maps to keys and values."""
        from variants.sites.targets import find_sites

        return [*super().sites(model), *find_sites(model, "k,v")]
