"""What one site learns."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.acceleration.low_rank import Product, project
from variants.errors import VariantError

if TYPE_CHECKING:
    from variants.sites.site import Site
    from variants.variant import Variant


class AdapterLayer(nn.Module):
    """The trainable part at one site, given what goes into the site and what the frozen base makes of it.

    A subclass is built as ``Layer(site, config, rng, **config.shared(...))``; every random initial value comes from
    ``rng``, a CPU generator seeded by the run's seed and the site's path, so that it is the same on every rank and
    device. It writes ``delta_weight`` or ``forward``, and both where the second can be faster than the default; where
    the update is a low-rank product, ``factors`` alone says it all, and is the fastest.
    Dtypes are none of its business: inputs arrive in the dtype of its parameters, and the output is cast back.

    Args:
        site: the place in the model; ``in_features``, ``out_features`` and, for linear maps, ``weight()``.
        config: the variant's hyperparameters as they hold at this site.
        rng: generator for the initial values.
    """

    resizable: Mapping[str, int] = {}
    """Tensors that may come back from a file of another size, and in which dimension (AdaLoRA's rank)."""
    per_token: bool = False
    """A token's output depends on that token alone: the encoder may leave padding out, and carry on (tokens, d)."""
    low_precision: tuple[str, ...] = ()
    """Vectors that are rounded as matrices are where the base is in low precision; others stay in fp32."""
    rank_dims: Mapping[str, int] = {}
    """Tensors of a rank r and which dimension has it; zeros may be appended there without a change of the output."""
    training_only: tuple[str, ...] = ()
    """Buffers needed to go on training and not to compute: part of a checkpoint; an adapter file may lack them."""

    def __init__(self, site: Site, config: Variant, rng: torch.Generator | None = None) -> None:
        super().__init__()
        self.site = site  # plain attributes: the base model is not a child of its adapter
        self.config = config

    def factors(self) -> tuple[Tensor, Tensor, float] | None:
        """A (r, in_features), B (out_features, r) and s of an update s·B·A, or None where it is another.

        ``self.dropout``, if there is one, acts on what A multiplies.
        """
        return None

    def delta_weight(self) -> Tensor:
        """What is added to the site's weight, shape (out_features, in_features)."""
        factors = self.factors()
        if factors is None:
            raise NotImplementedError(f"{type(self).__name__} defines none of factors(), delta_weight() and forward()")
        A, B, s = factors
        return s * B @ A

    def product(self, x: Tensor) -> Product | None:
        """What is added to the site's output as a low-rank product, or None."""
        factors = self.factors()
        if factors is None:
            return None
        A, B, s = factors
        return Product(project(self.after_dropout(x), A), B, s)

    def drops(self) -> bool:
        """Whether ``self.dropout`` does anything."""
        dropout = self._modules.get("dropout")
        return dropout is not None and dropout.training and getattr(dropout, "p", None) != 0

    def after_dropout(self, x: Tensor) -> Tensor:
        """What A multiplies: ``x`` or, where it does anything, what ``self.dropout`` makes of it."""
        return self.dropout(x) if self.drops() else x

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The site's new output.

        Args:
            x: input of the site, (..., in_features).
            y: what the frozen base makes of it, W x + b, (..., out_features).
        """
        product = self.product(x)
        return y + F.linear(x, self.delta_weight()) if product is None else product.added(y)

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Weight (out, in) and bias (out) of the plain linear map that equals base and adapter together."""
        return weight + self.delta_weight(), bias

    def folded(self) -> tuple[tuple[Tensor, Tensor | None], float]:
        """:meth:`merged` of the site's own weight and bias in at least fp32, and how far the merged map then is from
        base and adapter: the largest absolute difference over 32 random inputs."""
        site = self.site
        dtype = torch.promote_types(site.dtype, torch.float32)
        layer = copy.deepcopy(self).eval().to(dtype)  # a bank in the base's dtype is widened too, in the copy
        weight = site.weight().to(dtype)
        bias = None if site.bias() is None else site.bias().to(dtype)
        merged = layer.merged(weight, bias)
        probe = torch.randn(32, site.in_features, generator=seeded(0, site.path)).to(weight)
        x = layer.pre(probe) if hasattr(layer, "pre") else probe
        expected = layer(x, F.linear(x, weight, bias))
        return merged, (F.linear(probe, *merged) - expected).abs().max().item()

    def trimmed(self) -> dict[str, Tensor]:
        """The layer's tensors without what no output depends on: what an adapter file holds of it."""
        return {k: t for k, t in self.state_dict(keep_vars=True).items() if k not in self.training_only}

    def completed(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """All tensors of the layer from those of :meth:`trimmed`; what is only for training starts anew."""
        return {name: torch.zeros_like(getattr(self, name)) for name in self.training_only} | tensors


def seeded(seed: int, path: str) -> torch.Generator:
    """A CPU generator that depends on a seed and a name alone: not on order, rank, device or the global generator."""
    digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def full_precision(tensor: Tensor) -> AbstractContextManager:
    """A block in which autocast leaves dtypes as they are; there is none on the meta device."""
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)


def check_rank(r: int, site: Site, option: str = "r") -> int:
    """``r``, where it fits a low-rank factor at ``site``.

    Raises:
        VariantError: it is above the smaller side of the site's matrix.
    """
    limit = min(site.in_features, site.out_features)
    if r > limit:
        raise VariantError(
            f"{option}={r} is more than {site.path} allows: its matrix is {site.out_features} x {site.in_features}, "
            f"so {option} can be at most {limit}"
        )
    return r


LOW_PRECISION = (torch.bfloat16, torch.float16)
