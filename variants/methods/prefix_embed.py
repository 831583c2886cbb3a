"""Prefix-embedding tuning, as the LoRA paper compares it (Hu et al. 2021, arXiv 2106.09685, section 5.1): PreEmbed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from variants.errors import VariantError
from variants.prefix_room import Room, RoomLayer
from variants.registry import register
from variants.sites.blocks import sequence
from variants.sites.site import Site
from variants.variant import BaseVariant


class PrefixEmbedLayer(RoomLayer):
    """x ← [P; x]: p trained embeddings of tokens that no vocabulary has, beside those of the text."""

    def __init__(self, site, config: PrefixEmbed, rng: torch.Generator, room: Room) -> None:
        super().__init__(site, config, rng, room)
        self.prefix = nn.Parameter(torch.empty(config.p, site.embedding_dim))
        nn.init.normal_(self.prefix, std=config.std, generator=rng)

    def embeddings(self, like: Tensor) -> Tensor:
        """The trained embeddings, (p, d)."""
        return self.prefix


@register("prefix_embed")
@dataclass
class PrefixEmbed(BaseVariant):
    """PreEmbed: the embeddings of p tokens before the text train (arXiv 2106.09685, section 5.1; d·p parameters).

    The paper also puts such tokens behind the text (infix), which count in the same way; here all stand before it, and
    behind the first token where the head reads that one.

    Args:
        p: length of the prefix in tokens.
        std: of the initial values, around zero.
    """

    p: int = 8
    std: float = 0.02

    mergeable = False
    identity_at_start = False
    layer = PrefixEmbedLayer
    size = "p"

    def __post_init__(self) -> None:
        if self.p < 1:
            raise VariantError(f"p must be at least 1, not {self.p}")

    def sites(self, model: nn.Module) -> list[Site]:
        """The backbone, which takes p tokens more."""
        return [sequence(model)]

    def shared(self, sites: Sequence[Site], seed: int) -> dict[str, Any]:
        """The place of the prefix in a sequence."""
        return {"room": Room(sites[0].module, self.p)}
