"""MoRA: High-Rank Updating for Parameter-Efficient Fine-Tuning (Jiang et al. 2024, arXiv 2405.12130)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.layer import AdapterLayer
from variants.registry import register
from variants.variant import Variant


class MoRALayer(AdapterLayer):
    """h = W₀x + expand(M·compress(x)) with a square M (r̂, r̂), r̂ = √((in + out)·r), zero at the start (eqs. 3 to 9).

    The input is cut into pieces of r̂, piece i rotated by angles i·θ as rotary positions are, and M applied to each;
    the pieces put together, repeated or cut, are the output. A last piece that is short is filled from the first.
    """

    per_token = True

    def __init__(self, site, config: MoRA, rng: torch.Generator) -> None:
        super().__init__(site, config)
        size = max(2, int(math.sqrt((site.in_features + site.out_features) * config.r) + 0.5) // 2 * 2)
        self.M = nn.Parameter(torch.zeros(size, size))
        theta = 10000.0 ** -(torch.arange(0, size, 2) / size)
        angle = torch.outer(torch.arange(math.ceil(site.in_features / size)), theta).repeat(1, 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def added(self, x: Tensor) -> Tensor:
        """expand(M·compress(x)), (..., in) -> (..., out)."""
        out, size = self.site.out_features, len(self.M)
        pieces = cycled(x, self.cos.numel()).unflatten(-1, self.cos.shape)
        low, high = pieces.chunk(2, dim=-1)
        turned = pieces * self.cos + torch.cat([-high, low], dim=-1) * self.sin
        return cycled(F.linear(turned, self.M).flatten(-2), max(out, size))[..., :out]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """y + expand(M·compress(x))."""
        return y + self.added(self.dropout(x))

    def delta_weight(self) -> Tensor:
        """What is added, as a matrix."""
        return self.added(torch.eye(self.site.in_features).to(self.M)).mT


def cycled(x: Tensor, length: int) -> Tensor:
    """x (..., n), repeated from its first entry on where it is shorter than ``length``."""
    n = x.shape[-1]
    return x if n >= length else torch.cat([x] * math.ceil(length / n), dim=-1)[..., :length]


@register("mora")
@dataclass
class MoRA(Variant):
    """MoRA: a square matrix of as many parameters as LoRA's two, between fixed maps to and from it (arXiv 2405.12130).

    Args:
        r: rank of the LoRA that has as many parameters.
        dropout: probability of dropping an input of the update while training.
    """

    r: int = 8
    dropout: float = 0.0

    layer = MoRALayer
    size = "r"
