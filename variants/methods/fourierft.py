"""FourierFT: Parameter-Efficient Fine-Tuning with Discrete Fourier Transform (Gao et al. 2024, arXiv 2405.03003)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from variants.errors import VariantError
from variants.layer import AdapterLayer, full_precision, wide
from variants.registry import register
from variants.variant import Variant


class FourierFTLayer(AdapterLayer):
    """ΔW = α·Re(F⁻¹(C)), where n trained coefficients c stand at random places of an else empty spectrum C (eqs. 2-4).

    c is drawn from a standard normal distribution; the places depend on ``entry_seed`` and the map's shape alone.
    """

    def __init__(self, site, config: FourierFT, rng: torch.Generator) -> None:
        super().__init__(site, config)
        size = site.out_features * site.in_features
        if config.n > size:
            raise VariantError(f"n={config.n} is more than {site.path} allows: its matrix has {size} entries")
        places = torch.randperm(size, generator=torch.Generator().manual_seed(config.entry_seed))[: config.n]
        self.register_buffer("places", places, persistent=False)
        start = torch.randn(config.n, generator=rng) if config.init == "gaussian" else torch.zeros(config.n)
        self.c = nn.Parameter(start)

    def delta_weight(self) -> Tensor:
        """α·Re(F⁻¹(C))."""
        out, into = self.site.out_features, self.site.in_features
        with full_precision(self.c):
            c = wide(self.c)
            C = torch.zeros(out * into, device=c.device, dtype=c.dtype).scatter(0, self.places, c).view(out, into)
            return (self.config.alpha * torch.fft.ifft2(C).real).to(self.c.dtype)


@register("fourierft")
@dataclass
class FourierFT(Variant):
    """FourierFT: a few trained Fourier coefficients make the update of each weight (arXiv 2405.03003).

    Args:
        n: how many coefficients each map has.
        alpha: scaling of the update.
        init: gaussian (the paper: the adapter does not start as the base), or zero.
        entry_seed: of the places of the coefficients, apart from the run's seed.
        dropout: probability of dropping an input of the update while training.
    """

    n: int = 1000
    alpha: float = 150.0
    init: Literal["gaussian", "zero"] = "gaussian"
    entry_seed: int = 777
    dropout: float = 0.0

    layer = FourierFTLayer
    size = "n"
    identity_at_start = False
