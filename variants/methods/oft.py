"""OFT: Controlling Text-to-Image Diffusion by Orthogonal Finetuning (Qiu et al. 2023, arXiv 2306.07280)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from variants.errors import VariantError
from variants.layer import AdapterLayer, check_rank, full_precision, wide
from variants.registry import register
from variants.sites.site import Site
from variants.variant import Variant


class RotatedLayer(AdapterLayer):
    """h = W₀(xR) + b for a square R, through what R changes: y + W₀(x(R - I))."""

    per_token = True

    def change(self, x: Tensor) -> Tensor:
        """x(R - I), (..., in) -> (..., in)."""
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """y + W₀(x(R - I))."""
        return y + self.site.times(self.change(x).to(self.site.dtype))

    def delta_weight(self) -> Tensor:
        """W₀(R - I)ᵀ."""
        W = wide(self.site.weight())
        return W @ self.change(torch.eye(W.shape[1]).to(W)).mT


def cayley(Q: Tensor, terms: int = 0) -> Tensor:
    """R - I for R = (I + Q)(I - Q)⁻¹ of skew-symmetric Q (..., b, b).

    Args:
        terms: of the polynomial in Q that stands in for R, I + 2Q + 2Q² + ... + Q^(terms-1); 0: R itself.
    """
    eye = torch.eye(Q.shape[-1], device=Q.device, dtype=Q.dtype)
    if not terms:
        return torch.linalg.solve_ex(eye - Q, 2 * Q).result  # as solve, without its check: I - Q is never singular
    series = eye
    for _ in range(terms - 2):  # of (I - Q)⁻¹
        series = eye + Q @ series
    return (eye + Q) @ series - eye


class Blocks(nn.Module):
    """Skew-symmetric blocks Q (..., b, b) by what stands above their diagonals, (..., b(b-1)/2), zero at the start."""

    def __init__(self, *count: int, b: int) -> None:
        super().__init__()
        row, column = torch.triu_indices(b, b, 1).unbind()
        place = torch.zeros(b, b, dtype=torch.long)
        place[row, column] = torch.arange(1, len(row) + 1, device=row.device)
        self.b = b
        self.register_buffer("place", place.flatten(), persistent=False)
        self.upper = nn.Parameter(torch.zeros(*count, len(row)))

    def forward(self) -> Tensor:
        """Q, in fp32 at least."""
        upper = wide(self.upper)
        half = torch.cat([upper.new_zeros(*upper.shape[:-1], 1), upper], dim=-1).index_select(-1, self.place)
        half = half.unflatten(-1, (self.b, self.b))
        return half - half.mT


def block_size(b: int, site: Site) -> int:
    """The largest divisor of the map's input up to ``b``."""
    return max(d for d in range(1, check_rank(b, site, "block") + 1) if site.in_features % d == 0)


class OFTLayer(RotatedLayer):
    """R is block-diagonal, its blocks Cayley's transforms of skew-symmetric Q, 0 at the start (eq. 4)."""

    def __init__(self, site, config: OFT, rng: torch.Generator) -> None:
        super().__init__(site, config)
        b = block_size(config.block, site)
        self.Q = Blocks(site.in_features // b, b=b)

    def change(self, x: Tensor) -> Tensor:
        """x(R - I), block by block."""
        with full_precision(self.Q.upper):
            change = cayley(self.Q(), self.config.terms).to(x.dtype)
        return torch.einsum("...nb,nbc->...nc", x.unflatten(-1, change.shape[:2]), change).flatten(-2)


@register("oft")
@dataclass
class OFT(Variant):
    """OFT: the input of each map is rotated by blocks, so that angles between neurons stay (arXiv 2306.07280).

    Args:
        block: size of the blocks; where it does not divide a map's input, the next smaller size that does.
        terms: of a polynomial in place of the exact rotation, at least 3, as in OFTv2 (5; arXiv 2506.19847); 0: exact.
    """

    block: int = 32
    terms: int = 0

    layer = OFTLayer
    size = "block"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.terms and self.terms < 3:
            raise VariantError(f"terms must be 0 or at least 3, not {self.terms}")
