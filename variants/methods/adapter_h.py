"""Adapter^H: Parameter-Efficient Transfer Learning for NLP (Houlsby et al. 2019, arXiv 1902.00751)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.errors import VariantError
from variants.layer import AdapterLayer
from variants.registry import register
from variants.sites.site import Site
from variants.variant import BaseVariant


class BottleneckLayer(AdapterLayer):
    """h ← h + f(h·W_down + b_down)·W_up + b_up (section 2.1), where W_up = 0 at the start.

    The paper draws both matrices from N(0, 0.01²), cut at two σ, for a near-identity; a zero W_up makes it exact.
    """

    per_token = True

    def __init__(self, site, config: AdapterH, rng: torch.Generator) -> None:
        super().__init__(site, config)
        d = site.out_features
        self.down = nn.Parameter(torch.empty(config.r, d))
        self.down_bias = nn.Parameter(torch.zeros(config.r))
        self.up = nn.Parameter(torch.zeros(d, config.r))
        self.up_bias = nn.Parameter(torch.zeros(d))
        self.activation = getattr(F, config.activation)
        nn.init.trunc_normal_(self.down, std=0.01, a=-0.02, b=0.02, generator=rng)

    def bottleneck(self, h: Tensor) -> Tensor:
        """What the adapter adds to ``h``, (..., d) -> (..., d)."""
        return F.linear(self.activation(F.linear(h, self.down, self.down_bias)), self.up, self.up_bias)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """h + bottleneck(h), (..., d)."""
        return y + self.bottleneck(y)


@register("adapter_h")
@dataclass
class AdapterH(BaseVariant):
    """Adapter^H: a bottleneck after the attention and one after the feed-forward part of each block (arXiv 1902.00751).

    They sit on the projection back to the hidden size, before the residual is added. 2·L·(2·d·r + r + d) parameters.

    Args:
        r: width of the bottleneck.
        activation: f.
        layers: numbers of the model's blocks that get adapters, such as 0-5,11; empty means all.
        norms: train the blocks' own LayerNorms too, 2·d parameters each, as Houlsby et al. do; the LoRA paper's
            counts of this method leave them out.
    """

    r: int = 64
    activation: Literal["gelu", "relu", "silu", "tanh"] = "gelu"
    layers: str = ""
    norms: bool = False

    layer = BottleneckLayer
    size = "r"
    mergeable = False

    def __post_init__(self) -> None:
        if self.r < 1:
            raise VariantError(f"r must be at least 1, not {self.r}")

    def sites(self, model: nn.Module) -> list[Site]:
        """The projections back to the hidden size: of the attention and of the feed-forward part."""
        from variants.sites.targets import find_sites

        return find_sites(model, "o,down", self.layers)

    def trainable(self, model: nn.Module) -> Iterable[str]:
        """The blocks' LayerNorms, where ``norms`` asks for them."""
        from variants.sites.blocks import layer_norms

        return layer_norms(model, self.layers) if self.norms else ()
