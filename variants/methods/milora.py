"""MiLoRA: Harnessing Minor Singular Components (Wang et al. 2024, arXiv 2406.09044)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from variants.methods.pissa import PiSSA, PiSSALayer, singular
from variants.registry import register


class MiLoRALayer(PiSSALayer):
    """h = (W₀ - sB₀A₀)x + s·BAx, where sB₀A₀ is the minor part of W₀ (section 3)."""

    def start(self, weight: Tensor, r: int) -> tuple[Tensor, Tensor]:
        """B₀ = U√(S/s) and A₀ = √(S/s)V of the r smallest singular values."""
        U, S, V = singular(weight)
        return self.roots(U[:, -r:], S[-r:], V[-r:])


@register("milora")
@dataclass
class MiLoRA(PiSSA):
    """MiLoRA: LoRA that starts as the minor part of the weight; the principal part is frozen (arXiv 2406.09044)."""

    layer = MiLoRALayer
