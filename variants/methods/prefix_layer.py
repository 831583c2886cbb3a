"""Prefix-layer tuning, as the LoRA paper compares it (Hu et al. 2021, arXiv 2106.09685, section 5.1): PreLayer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from variants.layer import AdapterLayer
from variants.methods.prefix_embed import PrefixEmbed
from variants.prefix_room import Room, RoomLayer
from variants.registry import register
from variants.sites.site import Site


class ActivationsLayer(AdapterLayer):
    """h[:p] ← P: what the block before has computed for the prefix is replaced by trained activations."""

    def __init__(self, site, config: PrefixLayer, rng: torch.Generator, room: Room) -> None:
        super().__init__(site, config)
        self.room = room
        self.prefix = nn.Parameter(torch.empty(config.p, site.out_features))
        nn.init.normal_(self.prefix, std=config.std, generator=rng)

    def pre(self, x: Tensor) -> Tensor:
        """The block's input (batch, tokens + p, d) with P in the room of the prefix."""
        return self.room.fill(x, self.prefix)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The block's output as it is."""
        return y


@register("prefix_layer")
@dataclass
class PrefixLayer(PrefixEmbed):
    """PreLayer: the activations of p tokens before the text train at every block (arXiv 2106.09685, section 5.1).

    L·d·p parameters: the inputs of the L blocks. This is not Li and Liang's method, see prefix_tuning.
    """

    def layer(self, site: Site, config: PrefixLayer, rng: torch.Generator, room: Room) -> AdapterLayer:
        """Room on the backbone, activations on its blocks."""
        return (RoomLayer if site.module is room.backbone else ActivationsLayer)(site, config, rng, room)

    def sites(self, model: nn.Module) -> list[Site]:
        """The backbone and its blocks."""
        from variants.sites.blocks import block_inputs

        return [*super().sites(model), *block_inputs(model)]
