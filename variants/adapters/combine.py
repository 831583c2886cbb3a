"""A weighted sum of several adapters on one base, as a new LoRA adapter."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from variants.adapters.adapter import refuse_unknown
from variants.errors import VariantError
from variants.layer import wide
from variants.methods.lora import LoRA, LoRALayer
from variants.sites.rows import Rows
from variants.sites.site import Site
from variants.sites.targets import find_sites, name_target

if TYPE_CHECKING:
    from variants.adapters.adapted_model import AdaptedModel


@dataclass
class _Update:
    """What is added to one site's weight (out, in): left (out, k) times right (k, in), and a matrix without factors."""

    site: Site
    left: Tensor
    right: Tensor
    rest: Tensor | None = None

    def widened(self) -> _Update:
        """The same update of the whole module, zero outside the slice."""
        spread = self.site.rows.spread
        rest = None if self.rest is None else spread(self.rest)
        return _Update(self.site.whole(), spread(self.left), self.right, rest)

    def __add__(self, other: _Update) -> _Update:
        rests = [rest for rest in (self.rest, other.rest) if rest is not None]
        left, right = torch.cat([self.left, other.left], 1), torch.cat([self.right, other.right])
        return _Update(self.site, left, right, sum(rests) if rests else None)

    def factors(self, rank: int | None) -> tuple[Tensor, Tensor, float, float]:
        """B and A, the squared error and the squared norm of the update (both 0 where nothing is approximated)."""
        limit = min(self.site.in_features, self.site.out_features)
        if rank is None and len(self.right) <= limit:
            return self.left, self.right, 0.0, 0.0
        full = self.left @ self.right + (0 if self.rest is None else self.rest)
        u, s, v = torch.linalg.svd(full, full_matrices=False)
        k = min(rank or limit, limit)
        root = s[:k].sqrt()
        return u[:, :k] * root, root[:, None] * v[:k], s[k:].square().sum().item(), s.square().sum().item()


@torch.no_grad()
def combine(adapted: AdaptedModel, weights: Mapping[str, float], name: str, rank: int | None = None) -> float:
    """Add the adapter ``name``, whose update is the weighted sum of other adapters', and make it the active one.

    LoRA adapters of any ranks, alphas and targets are summed exactly, by concatenation of their factors. With
    ``rank``, and for other mergeable variants, the sum is approximated by truncated singular value decomposition.
    The head is the weighted average of the adapters' heads.

    Args:
        weights: adapter -> weight; they need not sum to 1 (the head's are divided by their sum).
        name: of the new adapter.
        rank: of the new update at each site; None keeps LoRA's sum exact.

    Returns:
        The relative error ‖ΔW - BA‖ / ‖ΔW‖ (Frobenius, over all sites); 0 for an exact sum.

    Raises:
        VariantError: an adapter is unknown, has no update of the weights alone, or needs ``rank``.
    """
    _check(adapted, weights, name, rank)
    found = adapted.state
    adapted.deactivate()  # the base weights and every head's values are in their places now
    try:
        return _add_sum(adapted, weights, name, rank)
    except BaseException:
        adapted.restore(found)
        raise


def _add_sum(adapted: AdaptedModel, weights: Mapping[str, float], name: str, rank: int | None) -> float:
    updates = _disjoint([u for key, weight in weights.items() for u in _updates(adapted, key, weight, rank)])
    factors = {span: update.factors(rank) for span, update in updates.items()}
    error, norm = (sum(f[i] for f in factors.values()) for i in (2, 3))
    target = name_target(adapted.model, [update.site for update in updates.values()])
    paths = {site.span: site.path for site in find_sites(adapted.model, target)}
    ranks = {paths[span]: a.shape[0] for span, (_, a, _, _) in factors.items()}
    r = Counter(ranks.values()).most_common(1)[0][0]
    per_layer = {path: {"r": k, "alpha": float(k)} for path, k in ranks.items() if k != r}
    head = _average_head(adapted, weights)
    adapted.add(name, LoRA(r=r, alpha=float(r), target=target, per_layer=per_layer))
    tensors = {f"{paths[span]}.lora_{x}": t for span, (b, a, _, _) in factors.items() for x, t in (("A", a), ("B", b))}
    adapted.load_state_dict(head | tensors)
    return (error / norm) ** 0.5 if norm else 0.0


def _check(adapted: AdaptedModel, weights: Mapping[str, float], name: str, rank: int | None) -> None:
    if name in adapted.adapters:
        raise VariantError(f"there is an adapter {name!r} already; delete it first or choose another name")
    refuse_unknown(adapted.adapters, weights)
    if rank is not None and rank < 1:
        raise VariantError(f"rank must be at least 1, not {rank}")
    if adapted.head and sum(weights.values()) == 0:
        raise VariantError("the weights sum to 0, which leaves the head without an average")
    for key in weights:
        adapter = adapted.adapters[key]
        if beyond := [k for k in adapter.in_place if k not in adapted.head]:
            raise VariantError(f"{key!r} cannot be combined: it trains {beyond[0]} in place")
        if not adapter.variant.mergeable:
            raise VariantError(f"{key!r} cannot be combined: {adapter.variant.name} is no linear map of its input")
    if not any(adapted.adapters[key].layers for key in weights):
        raise VariantError("nothing to combine: none of the adapters has layers")


def _updates(adapted: AdaptedModel, key: str, weight: float, rank: int | None) -> list[_Update]:
    """The update that each layer of adapter ``key`` makes to the base weight, times ``weight``."""
    adapter, updates = adapted.adapters[key], []
    for path, layer in adapter.layers.items():
        site = layer.site
        if type(layer) is LoRALayer:
            b, a = wide(layer.lora_B.to(site.device)), wide(layer.lora_A.to(site.device))
            updates.append(_Update(site, weight * layer.scaling * b, a))
            continue
        if rank is None:
            raise VariantError(f"{key!r} is {adapter.variant.name}, not a sum of LoRA's factors: give rank= as well")
        layer.at_site()
        base = site.weight().to(torch.promote_types(site.dtype, torch.float32))
        bias = None if site.bias() is None else site.bias().to(base.dtype)
        merged, new_bias = layer.merged(adapter.reduced(path).to(base) if path in adapter.first else base, bias)
        if bias is not None and not torch.equal(bias, new_bias):
            raise VariantError(f"{key!r} cannot be combined: {adapter.variant.name} changes the bias of {path}")
        left, right = base.new_zeros(site.out_features, 0), base.new_zeros(0, site.in_features)
        updates.append(_Update(site, left, right, weight * (merged - base)))
    return updates


def _together(rows: Iterable[Rows]) -> bool:
    """Whether slices of a module can carry a layer each."""
    return all(a.period == b.period and not a.overlap(b) for a, b in itertools.combinations(rows, 2))


def _disjoint(updates: list[_Update]) -> dict[tuple, _Update]:
    """Updates summed by span; where slices of a module overlap, they become one update of the whole module."""
    by_module: dict[str, set[Rows]] = {}
    for update in updates:
        by_module.setdefault(update.site.module_path, set()).add(update.site.rows)
    overlapping = {path for path, rows in by_module.items() if not _together(rows)}
    summed: dict[tuple, _Update] = {}
    for update in updates:
        if update.site.module_path in overlapping:
            update = update.widened()
        span = update.site.span
        summed[span] = summed[span] + update if span in summed else update
    return summed


def _average_head(adapted: AdaptedModel, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """The mean of the adapters' heads, weighted, in at least fp32."""
    total, head = sum(weights.values()), {}
    for key in adapted.head:
        values = {name: adapted.adapters[name].values[key] for name in weights}
        dtype = next(iter(values.values())).dtype
        wide = torch.promote_types(dtype, torch.float32)
        head[key] = sum((w / total) * values[name].to(wide) for name, w in weights.items()).to(dtype)
    return head
