"""BOFT: Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization (Liu et al. 2024, arXiv 2311.06243)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from variants.errors import VariantError
from variants.layer import full_precision, wide
from variants.methods.oft import Blocks, RotatedLayer, block_size, cayley
from variants.registry import register
from variants.variant import Variant


def transposed(x: Tensor, *shape: int) -> Tensor:
    """x (..., n), each of its tables of ``shape`` (rows, columns, size) with rows and columns changed places."""
    return x.unflatten(-1, (-1, *shape)).transpose(-3, -2).flatten(-4)


class BOFTLayer(RotatedLayer):
    """h = s ⊙ W₀(xR) + b with R = R_m ... R₁, each block-diagonal over features of its own order (eqs. 1 and 5).

    The blocks of factor i mix features 2^i·b/2 apart; s, of ones at the start, is the authors' code's.
    """

    def __init__(self, site, config: BOFT, rng: torch.Generator) -> None:
        super().__init__(site, config)
        n, b = site.in_features, block_size(config.block, site)
        m = next(m for m in range(config.factors, 0, -1) if m == 1 or not (b % 2 or n % (b * 2 ** (m - 1))))
        self.Q = Blocks(m, n // b, b=b)
        self.s = nn.Parameter(torch.ones(site.out_features))

    def change(self, x: Tensor) -> Tensor:
        """x(R - I), factor by factor."""
        with full_precision(self.Q.upper):
            changes = cayley(self.Q()).to(x.dtype)
        total = torch.zeros_like(x)
        for i in reversed(range(len(changes))):
            pair = 2 if i else 1  # halves of a block, which the first factor takes as it lies: an odd one has none
            half = changes.shape[-1] // pair
            blocks = transposed(x + total, pair, 2**i, half).unflatten(-1, changes.shape[1:3])
            changed = torch.einsum("...nb,nbc->...nc", blocks, changes[i]).flatten(-2)
            total = total + transposed(changed, 2**i, pair, half)
        return total

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """s ⊙ (rotated output without the bias) and the bias."""
        rotated, bias = super().forward(x, y), self.site.bias()
        return rotated + (self.s - 1) * (rotated if bias is None else rotated - bias)

    def delta_weight(self) -> Tensor:
        """diag(s)·W₀Rᵀ - W₀."""
        W, s = wide(self.site.weight()), self.s[:, None]
        return s * super().delta_weight() + (s - 1) * W


@register("boft")
@dataclass
class BOFT(Variant):
    """BOFT: the input of each map is rotated by a product of sparse rotations, as in the FFT (arXiv 2311.06243).

    Args:
        block: size of the blocks; where it does not divide a map's input, the next smaller size that does.
        factors: m, how many rotations are multiplied; fewer where a map's input does not fall into as many.
    """

    block: int = 8
    factors: int = 2

    layer = BOFTLayer
    size = "block"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factors < 1:
            raise VariantError(f"factors must be at least 1, not {self.factors}")
