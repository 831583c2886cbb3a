"""Adapter^P: AdapterFusion: Non-Destructive Task Composition for Transfer Learning (Pfeiffer et al. 2021,
arXiv 2005.00247)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from variants.methods.adapter_h import AdapterH, BottleneckLayer
from variants.registry import register
from variants.sites.site import Site


class PfeifferLayer(BottleneckLayer):
    """With the residual stream u at the end of a block: u ← LN(u + f(LN(u)·W_down + b_down)·W_up + b_up).

    LN is the block's own, frozen; where a block ends without one (GPT-2, OPT, LLaMA), it falls away.
    """

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """LN(u + bottleneck(LN(u))), or y + bottleneck(y) where a block ends without a norm."""
        delta = self.bottleneck(y)
        return self.site.module.forward(x + delta.to(x.dtype)) if self.site.ends_with_norm else y + delta


@register("adapter_p")
@dataclass
class AdapterP(AdapterH):
    """Adapter^P: one bottleneck in each block, after the feed-forward part and its LayerNorm (arXiv 2005.00247).

    L·(2·d·r + r + d) parameters.

    Args:
        activation: f.
    """

    activation: Literal["gelu", "relu", "silu", "tanh"] = "relu"

    layer = PfeifferLayer

    def sites(self, model: nn.Module) -> list[Site]:
        """The ends of the blocks."""
        from variants.sites.blocks import block_outputs

        return block_outputs(model, self.layers)
