"""(IA)³: Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning (Liu et al. 2022,
arXiv 2205.05638)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from variants.layer import AdapterLayer
from variants.registry import register
from variants.sites.misses import matches
from variants.variant import Variant


class IA3Layer(AdapterLayer):
    """l ⊙ (W₀x + b), or W₀(l ⊙ x) + b at a map whose input is scaled; l = 1 at the start (section 3.3)."""

    per_token = True

    def __init__(self, site, config: IA3, rng: torch.Generator) -> None:
        super().__init__(site, config)
        self.on_input = any(name == site.role or matches(site.path, name) for name in config.inputs.split(",") if name)
        self.l = nn.Parameter(torch.ones(site.in_features if self.on_input else site.out_features))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """l ⊙ y, or y + W₀((l - 1) ⊙ x)."""
        return y + self.site.times((self.l - 1) * x) if self.on_input else self.l * y

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """diag(l)·W₀ and l ⊙ b, or W₀·diag(l) and b."""
        if self.on_input:
            return weight * self.l, bias
        return self.l[:, None] * weight, None if bias is None else self.l * bias


@register("ia3")
@dataclass
class IA3(Variant):
    """(IA)³: trained vectors scale keys, values and what goes into the feed-forward output (arXiv 2205.05638).

    Args:
        inputs: roles or names of the maps whose input is scaled; the output of all others is.
    """

    target: str = "k,v,down"
    inputs: str = "down"

    layer = IA3Layer
