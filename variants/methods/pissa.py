"""PiSSA: Principal Singular Values and Singular Vectors Adaptation (Meng et al. 2024, arXiv 2404.02948)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from variants.layer import AdapterLayer, LowRank, check_alpha, check_rank, wide
from variants.registry import register
from variants.variant import Variant


def singular(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (out, k), S (k) falling and V (k, in) of a weight (out, in), in fp32 at least; each column of U has a positive
    sum, so that all devices agree on the signs."""
    U, S, V = torch.linalg.svd(wide(weight.detach()), full_matrices=False)
    sign = torch.where(U.sum(dim=0) < 0, -1.0, 1.0).to(U)
    return U * sign, S, sign[:, None] * V


class PiSSALayer(AdapterLayer):
    """h = (W₀ - sB₀A₀)x + s·BAx, where sB₀A₀ is the principal part of W₀ (eqs. 2 to 4)."""

    def __init__(self, site, config: PiSSA, rng: torch.Generator) -> None:
        super().__init__(site, config)
        self.scaling = check_alpha(config.alpha) / check_rank(config.r, site)
        B, A = self.start(site.weight(), config.r)
        self.lora_A, self.lora_B = nn.Parameter(A.contiguous()), nn.Parameter(B.contiguous())

    def start(self, weight: Tensor, r: int) -> tuple[Tensor, Tensor]:
        """B₀ = U√(S/s) and A₀ = √(S/s)V of the r largest singular values."""
        U, S, V = singular(weight)
        return self.roots(U[:, :r], S[:r], V[:r])

    def roots(self, U: Tensor, S: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
        """Two factors of U·diag(S)·V / s, as large as each other."""
        root = (S / self.scaling).sqrt()
        return U * root, root[:, None] * V

    def low_rank(self) -> LowRank:
        """s·BA."""
        return LowRank(self.lora_A, self.lora_B, self.scaling)


@register("pissa")
@dataclass
class PiSSA(Variant):
    """PiSSA: LoRA that starts as the principal part of the weight; the rest of the weight is frozen (arXiv 2404.02948).

    Args:
        r: rank of the update.
        alpha: scaling; the update is multiplied by alpha/r, and the start is divided by it.
        dropout: probability of dropping an input of A while training.
    """

    r: int = 8
    alpha: float = 8.0
    dropout: float = 0.0

    layer = PiSSALayer
    size = "r"
    subtract_initial = True
