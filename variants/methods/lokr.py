"""LoKr: the Kronecker product of LyCORIS (Yeh et al. 2023, arXiv 2309.14859), after KronA (arXiv 2212.10650)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from variants.errors import VariantError
from variants.layer import AdapterLayer, check_alpha
from variants.registry import register
from variants.variant import Variant


def factors(n: int, factor: int) -> tuple[int, int]:
    """n as a product: of ``factor`` where it divides n, else of the largest divisor up to √n, and up to a factor
    above 0."""
    if factor > 0 and n % factor == 0:
        return factor, n // factor
    most = math.isqrt(n) if factor < 0 else min(factor, math.isqrt(n))
    largest = max(d for d in range(1, most + 1) if n % d == 0)
    return largest, n // largest


class LoKrLayer(AdapterLayer):
    """ΔW = (α/r)·C ⊗ (BA), with C = 0 at the start: C (p, q), B (out/p, r), A (r, in/q) (section 3.3)."""

    def __init__(self, site, config: LoKr, rng: torch.Generator) -> None:
        super().__init__(site, config)
        (p, m), (q, n) = factors(site.out_features, config.factor), factors(site.in_features, config.factor)
        self.C = nn.Parameter(torch.zeros(p, q))
        self.B = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(m, config.r), a=math.sqrt(5), generator=rng))
        self.A = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(config.r, n), a=math.sqrt(5), generator=rng))
        self.scaling = check_alpha(config.alpha) / config.r

    def delta_weight(self) -> Tensor:
        """(α/r)·C ⊗ (BA)."""
        return self.scaling * torch.kron(self.C, self.B @ self.A)


@register("lokr")
@dataclass
class LoKr(Variant):
    """LoKr: the Kronecker product of a small matrix and a low-rank one is added to each weight (arXiv 2309.14859).

    Args:
        r: rank of the second matrix.
        alpha: scaling; the update is multiplied by alpha/r.
        factor: side of the small matrix, where it divides the map's; -1: as near to the root of each side as goes.
        dropout: probability of dropping an input of the update while training.
    """

    r: int = 8
    alpha: float = 8.0
    factor: int = -1
    dropout: float = 0.0

    layer = LoKrLayer
    size = "r"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.factor < 1 and self.factor != -1:
            raise VariantError(f"factor must be -1 or at least 1, not {self.factor}")
