"""A weighted sum of several adapters on one base, as a new LoRA adapter."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from variants.adapters.adapter import refuse_unknown
from variants.adapters.update import Update, as_matrix, relative_error
from variants.errors import VariantError
from variants.layer import wide
from variants.methods.lora import LoRA, LoRALayer
from variants.sites.kinds.rows import Rows
from variants.sites.misses import matches
from variants.sites.targets import find_sites, name_target

if TYPE_CHECKING:
    from variants.adapters.adapted_model import AdaptedModel


Weight = float | Mapping[str, float]
"""Of an adapter: a number, or globs over its sites' paths -> numbers. The last one that matches holds, and 1 where none
does, as in diffusers' ``set_adapters``."""


@torch.no_grad()
def combine(adapted: AdaptedModel, weights: Mapping[str, Weight], name: str, rank: int | None = None) -> float:
    """Add the adapter ``name``, whose update is the weighted sum of other adapters', and make it the active one.

    LoRA adapters of any ranks, alphas and targets are summed exactly, by concatenation of their factors. With
    ``rank``, and for other mergeable variants, the sum is approximated by truncated singular value decomposition.
    The head is the weighted average of the adapters' heads.

    Args:
        weights: adapter -> weight, one number or one by place; they need not sum to 1 (the head's are divided by their
            sum).
        name: of the new adapter.
        rank: of the new update at each site; None keeps LoRA's sum exact.

    Returns:
        The relative error ‖ΔW - BA‖ / ‖ΔW‖ (Frobenius, over all sites); 0 for an exact sum.

    Raises:
        VariantError: an adapter is unknown, has no update of the weights alone, or needs ``rank``; or a glob is of no
            site.
    """
    _check(adapted, weights, name, rank)
    found = adapted.state
    adapted.deactivate()  # the base weights and every head's values are in their places now
    try:
        return _add_sum(adapted, weights, name, rank)
    except BaseException:
        adapted.restore(found)
        raise


def _add_sum(adapted: AdaptedModel, weights: Mapping[str, Weight], name: str, rank: int | None) -> float:
    updates = _disjoint([u for key, weight in weights.items() for u in _updates(adapted, key, weight, rank)])
    found = {span: update.nearest(rank) for span, update in updates.items()}
    target = name_target(adapted.model, [update.site for update in updates.values()])
    paths = {site.span: site.path for site in find_sites(adapted.model, target)}
    ranks = {paths[span]: len(each.A) for span, each in found.items()}
    r = Counter(ranks.values()).most_common(1)[0][0]
    per_layer = {path: {"r": k, "alpha": float(k)} for path, k in ranks.items() if k != r}
    head = _average_head(adapted, weights)
    adapted.add(name, LoRA(r=r, alpha=float(r), target=target, per_layer=per_layer))
    tensors = {f"{paths[span]}.lora_{x}": getattr(each, x) for span, each in found.items() for x in "AB"}
    adapted.load_state_dict(head | tensors)
    return relative_error(found.values())


def _check(adapted: AdaptedModel, weights: Mapping[str, Weight], name: str, rank: int | None) -> None:
    if name in adapted.adapters:
        raise VariantError(f"there is an adapter {name!r} already; delete it first or choose another name")
    refuse_unknown(adapted.adapters, weights)
    if rank is not None and rank < 1:
        raise VariantError(f"rank must be at least 1, not {rank}")
    by_place = {key: weight for key, weight in weights.items() if isinstance(weight, Mapping)}
    for key, globs in by_place.items():
        for glob in globs:
            if not any(matches(path, glob) for path in adapted.adapters[key].layers):
                raise VariantError(f"{glob!r}, which weighs {key!r}, is of none of its sites")
    if adapted.head and by_place:
        raise VariantError(f"{next(iter(by_place))!r} has a head, which is in no place that is weighed: give a number")
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


def _updates(adapted: AdaptedModel, key: str, chosen: Weight, rank: int | None) -> list[Update]:
    """The update that each layer of adapter ``key`` makes to the base weight, times its weight."""
    adapter, updates = adapted.adapters[key], []
    for path, layer in adapter.layers.items():
        site, weight = layer.site, _weight_at(chosen, path)
        if type(layer) is LoRALayer:
            b, a = wide(layer.lora_B.to(site.device)), wide(layer.lora_A.to(site.device))
            updates.append(Update(site, weight * layer.scaling * b, a))
            continue
        if rank is None:
            raise VariantError(f"{key!r} is {adapter.variant.name}, not a sum of LoRA's factors: give rank= as well")
        try:
            update = as_matrix(adapter, path)
        except VariantError as error:
            raise VariantError(f"{key!r} cannot be combined: {error}") from error
        updates.append(dataclasses.replace(update, rest=weight * update.rest))
    return updates


def _weight_at(weight: Weight, path: str) -> float:
    if not isinstance(weight, Mapping):
        return weight
    return next((number for glob, number in reversed(weight.items()) if matches(path, glob)), 1.0)


def _together(rows: Iterable[Rows]) -> bool:
    """Whether slices of a module can carry a layer each."""
    return all(a.period == b.period and not a.overlap(b) for a, b in itertools.combinations(rows, 2))


def _disjoint(updates: list[Update]) -> dict[tuple, Update]:
    """Updates summed by span; where slices of a module overlap, they become one update of the whole module."""
    by_module: dict[str, set[Rows]] = {}
    for update in updates:
        by_module.setdefault(update.site.module_path, set()).add(update.site.rows)
    overlapping = {path for path, rows in by_module.items() if not _together(rows)}
    summed: dict[tuple, Update] = {}
    for update in updates:
        if update.site.module_path in overlapping:
            update = update.widened()
        span = update.site.span
        summed[span] = summed[span] + update if span in summed else update
    return summed


def _average_head(adapted: AdaptedModel, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """The mean of the adapters' heads, weighted, in at least fp32."""
    if not adapted.head:
        return {}
    total, head = sum(weights.values()), {}
    for key in adapted.head:
        values = {name: adapted.adapters[name].values[key] for name in weights}
        dtype = next(iter(values.values())).dtype
        wide = torch.promote_types(dtype, torch.float32)
        head[key] = sum((w / total) * values[name].to(wide) for name, w in weights.items()).to(dtype)
    return head
