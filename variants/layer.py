"""What one site learns."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.errors import VariantError
from variants.outside.places import definition

if TYPE_CHECKING:
    from variants.sites.site import Site

LOW_PRECISION = (torch.bfloat16, torch.float16)
"""Dtypes of a base over which adapters stay in fp32."""


class LowRank(NamedTuple):
    """An update ΔW = scale · diag(outer) · B · diag(inner) · A; a factor that is None is left out.

    LoRA is ``LowRank(A, B, α/r)``, AdaLoRA has its singular values as ``inner``, VeRA has ``inner`` and ``outer``. A
    matrix as ``inner`` stands between B and A as it is (LoRA-XS).

    Attributes:
        A: (r, in_features).
        B: (out_features, r).
        scale: a number, such as α/r.
        inner: (r), or (r, r).
        outer: (out_features).
    """

    A: Tensor
    B: Tensor
    scale: float = 1.0
    inner: Tensor | None = None
    outer: Tensor | None = None

    def widened(self) -> LowRank:
        """The same update with factors in fp32 at least."""
        return LowRank(*(wide(value) if isinstance(value, Tensor) else value for value in self))

    def folded(self) -> LowRank:
        """The same update as scale · BA alone."""
        A, B = self.A, self.B
        if self.inner is not None:
            A = self.inner @ A if self.inner.ndim == 2 else self.inner[:, None] * A
        if self.outer is not None:
            B = self.outer[:, None] * B
        return LowRank(A, B, self.scale)

    def delta_weight(self) -> Tensor:
        """ΔW, (out_features, in_features)."""
        A, B, scale, _, _ = self.folded()
        return scale * B @ A

    def added(self, y: Tensor, x: Tensor) -> Tensor:
        """y + ΔW x: (..., out_features) and (..., in_features) give (..., out_features)."""
        z = F.linear(x, self.A)
        if self.inner is not None:
            z = F.linear(z, self.inner) if self.inner.ndim == 2 else self.inner * z
        if self.outer is not None:
            return y + self.scale * self.outer * F.linear(z, self.B)
        z, B = z.to(y.dtype), self.B.to(y.dtype)
        return torch.addmm(rows(y), rows(z), B.mT, alpha=self.scale).view_as(y)  # one kernel for product and sum


def has_hooks(module: nn.Module) -> bool:
    """Whether hooks for a module's inputs, outputs or their gradients want to see it called."""
    return any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks))


def rows(tensor: Tensor) -> Tensor:
    """(..., n) as rows (N, n); a vector is one row."""
    return tensor.flatten(0, -2) if tensor.ndim > 1 else tensor[None]


class AdapterLayer(nn.Module):
    """The trainable part at one site, given what goes into the site and what the frozen base makes of it.

    A subclass is built as ``Layer(site, config, rng, **config.shared(...))``; every random initial value comes from
    ``rng``, a CPU generator seeded by the run's seed and the site's path, so that it is the same on every rank and
    device. It says what it computes in one of three ways: :meth:`low_rank` where the update is a low-rank product,
    :meth:`delta_weight` for any other update of the weight, :meth:`forward` for everything else; what a subclass writes
    takes the place of what it inherits. How fast it is computed is none of its business (``variants.acceleration``),
    and neither are dtypes: inputs arrive in the dtype of its parameters, and the output is cast back.

    Args:
        site: the place in the model; ``in_features``, ``out_features`` and, for linear maps, ``weight()``.
        config: the variant's hyperparameters as they hold at this site. An option ``dropout`` drops inputs of the
            update while training.
        rng: generator for the initial values.
    """

    resizable: Mapping[str, int] = {}
    """Tensors that may come back from a file of another size, and in which dimension (AdaLoRA's rank)."""
    training_only: tuple[str, ...] = ()
    """Buffers needed to go on training and not to compute: part of a checkpoint; an adapter file may lack them."""
    sparse: tuple[str, ...] = ()
    """Parameters of which a step changes the entries alone that its pass has chosen (VB-LoRA's top k logits)."""
    reads_mask: ClassVar[bool] = False
    """:attr:`attention_mask` is read: batches are padded then, and seeds trained one after the other."""
    attention_mask: Tensor | None = None
    """Where ``reads_mask``: which tokens of the batch are neither padding nor filled up, (rows, length) of bool; None
    where whoever calls the model does not say."""
    declares_low_rank: ClassVar[bool] = True
    """What :meth:`low_rank` gives is what the layer computes: no subclass wrote a :meth:`delta_weight` over it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        written = (name for base in cls.__mro__ for name in ("low_rank", "delta_weight") if name in vars(base))
        cls.declares_low_rank = next(written) == "low_rank"
        if cls.reads_mask and cls.per_token is True:
            raise VariantError(f"{cls.__name__} reads the mask, which packed rows have none of: take per_token back")

    def __init__(self, site: Site, config: Any, rng: torch.Generator | None = None) -> None:
        super().__init__()
        own = type(self)
        written = [
            n for n in ("low_rank", "delta_weight", "forward") if getattr(own, n) is not getattr(AdapterLayer, n)
        ]
        if not (written or hasattr(own, "pre") or hasattr(own, "lengthen")):
            where = definition(own)
            raise VariantError(f"{where}: {own.__name__} has none of low_rank(), delta_weight() and forward(x, y)")
        self.site = site  # plain attributes: the base model is not a child of its adapter
        self.config = config
        self.dropout = nn.Dropout(getattr(config, "dropout", 0.0))

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: all but what a pass has left for ``penalty``, which belongs to that pass."""
        return {k: v for k, v in vars(self).items() if not (isinstance(v, Tensor) and v.grad_fn is not None)}

    def low_rank(self) -> LowRank | None:
        """The update as a low-rank product, or None where it is another: always, with the same factors, or never."""
        return None

    def delta_weight(self) -> Tensor:
        """The update of the site's weight, (out_features, in_features)."""
        update = self.low_rank()
        if update is None:
            raise NotImplementedError(f"{type(self).__name__} defines none of low_rank(), delta_weight() and forward()")
        return update.delta_weight()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The site's new output.

        Args:
            x: input of the site, (..., in_features).
            y: what the frozen base makes of it, W x + b, (..., out_features).
        """
        update, x = self.low_rank() if self.declares_low_rank else None, self.dropout(x)
        return y + F.linear(x, self.delta_weight()) if update is None else update.added(y, x)

    def at_site(self) -> AdapterLayer:
        """The layer, where its base weight is now and in the base's dtype, or in fp32 over one of low precision.

        The layers of an adapter that is not active stay behind when the model is moved or cast.
        """
        device, base = self.site.device, self.site.dtype
        own = torch.promote_types(base, torch.float32)
        return self._apply(lambda t: t.to(device, own if t.is_floating_point() and t.dtype != base else t.dtype))

    @property
    def drops(self) -> bool:
        """Whether :attr:`dropout` does anything now."""
        return self.dropout.training and getattr(self.dropout, "p", 1.0) != 0

    @property
    def adds_low_rank(self) -> bool:
        """All that the layer does is to add its low-rank update."""
        plain = type(self).forward is AdapterLayer.forward and self.declares_low_rank and not self.hooked
        return plain and bool(self.low_rank_factors)

    @cached_property
    def low_rank_factors(self) -> frozenset[str]:
        """Names of the factors that :meth:`low_rank` gives; none where it gives None."""
        update = self.low_rank()  # asked once: some updates cost more than their products
        named = {} if update is None else update._asdict()
        return frozenset(name for name, value in named.items() if isinstance(value, Tensor))

    @property
    def hooked(self) -> bool:
        """Whether hooks of its own, for inputs, outputs or their gradients, want to see the layer called."""
        return has_hooks(self)

    @property
    def per_token(self) -> bool:
        """The output at a token depends on that token alone, so that an encoder may leave padding out.

        It is so for updates of a weight. A layer that has a ``forward`` or a ``pre`` of its own says so by
        ``per_token = True``; one that lengthens the sequence never can, nor one that reads the mask.
        """
        own = hasattr(self, "pre") or hasattr(self, "lengthen") or self.reads_mask
        return type(self).forward is AdapterLayer.forward and not own

    def merged(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Weight (out, in) and bias (out) of the plain linear map that equals base and adapter together."""
        return weight + self.delta_weight(), bias

    def folded(self) -> tuple[tuple[Tensor, Tensor | None], float]:
        """:meth:`merged` of the site's own weight and bias in at least fp32, and how far the merged map then is from
        base and adapter: the largest absolute difference over 32 random inputs."""
        site = self.site
        dtype = torch.promote_types(site.dtype, torch.float32)
        weight = site.weight().to(dtype)
        copied = copy.deepcopy(self, {id(site): site})  # a bank in the base's dtype is widened too, in the copy
        layer = copied.eval().to(dtype)
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

    @torch.no_grad()
    def shrink(self) -> None:
        """Drop for good the part of resizable tensors that no output depends on.

        Optimizers made before do not fit the layer any more.
        """
        if self.resizable:
            left = {name: tensor for name, tensor in self.trimmed().items() if name not in self.training_only}
            for name, tensor in self.completed(left).items():
                own = getattr(self, name)
                own.data, own.grad = tensor, None


def seeded(seed: int, path: str) -> torch.Generator:
    """A CPU generator that depends on a seed and a name alone: not on order, rank, device or the global generator."""
    digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def wide(tensor: Tensor) -> Tensor:
    """``tensor`` in fp32 at least: sums of squares in bf16 have three digits."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


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


def check_alpha(alpha: float) -> float:
    """``alpha``, where it scales an update to something; VariantError where it would stay nothing, or overflow."""
    if not 0 < alpha <= 1e6:
        raise VariantError(f"alpha must lie above 0, up to 1,000,000, not {alpha:g}")
    return alpha


def check_ranks(ranks: Sequence[tuple[int, Site]], free: bool = True) -> None:
    """Ranks of sums such as BA, which may exceed the smaller side of some matrices: that is said, once.

    Args:
        free: no more than a sum; else none may.

    Raises:
        VariantError: every rank is above its matrix, so that none of them can be meant; or one that may not.
    """
    above = [(r, site) for r, site in ranks if r > min(site.in_features, site.out_features)]
    if above and (not free or len(above) == len(ranks)):
        check_rank(*above[0])
    if above:
        r, site = above[0]
        warnings.warn(
            f"r={r} is above the smaller side of {len(above)} of {len(ranks)} maps, such as {site.path} "
            f"({site.out_features} x {site.in_features}): it computes, and reaches no more there than a lower rank",
            stacklevel=2,
        )
