"""What a variant says of itself must be so: that it trains, its low rank, token by token, its figures and size."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from variants.contract.base import Broken, property_of, require
from variants.contract.models import (
    NotApplicable,
    Subject,
    adapter_parameters,
    distance,
    no_layers,
    optimizer_steps,
    target_outputs,
)
from variants.layer import AdapterLayer, LowRank
from variants.outside.places import definition, located
from variants.training.answers import figures
from variants.variant import BaseVariant


def overrides(subject: Subject, *names: str) -> bool:
    """Whether the variant writes one of these functions itself."""
    return any(getattr(type(subject.variant), name) is not getattr(BaseVariant, name) for name in names)


@property_of("something trains")
def something_trains(subject: Subject) -> None:
    """It trains more than the task head: else every other property would say nothing."""
    if not adapter_parameters(subject.attached()):
        if subject.variant.layer is None and not overrides(subject, "trainable", "attach"):
            raise NotApplicable("it trains the head alone")
        raise Broken("it finds nothing to train in the models of this suite: trainable() or sites() name nothing there")


@property_of("low rank")
def low_rank_fits(subject: Subject) -> None:
    """A declared update has the factors of ΔW = scale · diag(outer) · B · diag(inner) · A, on maps of any shape."""
    layers = subject.attached().layers
    with contextlib.suppress(Exception):  # which "Conv1D" is about
        layers = [*layers, *subject.attached(**subject.retargeted("up,down")).layers]
    if not any(map(_declares, layers)):
        raise NotApplicable("no layer of it declares low_rank()")
    wrong = misfit(layers)
    require(not wrong, wrong)


def _declares(layer: AdapterLayer) -> bool:
    return type(layer).low_rank is not AdapterLayer.low_rank


@torch.no_grad()
def misfit(layers: Sequence[AdapterLayer]) -> str:
    """Where a declared update does not fit its map, and what it must be; "" where all do."""
    for layer in filter(_declares, layers):
        into, out = layer.site.in_features, layer.site.out_features
        if (update := layer.low_rank()) is not None and (wrong := _misfit(update, into, out)):
            at = f"{place}: " if (place := definition(type(layer).low_rank)) else ""
            return f"{at}at a map from {into} features to {out} low_rank() gives {wrong}"
    return ""


def _misfit(update: object, into: int, out: int) -> str:
    """Which part of a low-rank update does not fit a map, and what it must be; "" where all do."""
    if not isinstance(update, LowRank):
        return f"{type(update).__name__}, no LowRank(A, B, scale, inner, outer)"
    if not isinstance(update.scale, (int, float)):
        return (
            f"{type(update.scale).__name__} as scale, which is a number: what is trained or computed is inner or outer"
        )
    r = len(update.A) if isinstance(update.A, Tensor) and update.A.ndim else "r"
    fits = {
        "A": ("(r, in)", [(r, into)]),
        "B": ("(out, r)", [(out, r)]),
        "inner": ("(r) or (r, r)", [(r,), (r, r)]),
        "outer": ("(out)", [(out,)]),
    }
    for name, (words, shapes) in fits.items():
        factor = getattr(update, name)
        if factor is None and name in ("inner", "outer"):
            continue
        if not isinstance(factor, Tensor):
            return f"{type(factor).__name__} as {name}, which is a tensor {words}"
        found = tuple(factor.shape)
        if found not in shapes:
            turned = (
                ": hand it over transposed" if found[::-1] in shapes or (name == "A" and found[:1] == (into,)) else ""
            )
            wanted = " or ".join(str(shape) for shape in shapes).replace("'", "")
            return f"{name} of shape {found}, which must be {words} = {wanted}{turned}"
    return ""


@property_of("per token")
@torch.no_grad()
def per_token(subject: Subject) -> str | None:
    """A layer that says so gives each token the output that it has alone: batches are then packed without padding."""
    adapted, seen = subject.trained(), {}
    handles = [
        layer.site.module.adapter.register_forward_pre_hook(
            lambda module, args, layer=layer: seen.setdefault(layer, args)
        )
        for layer in adapted.layers
    ]
    adapted.model(subject.inputs())
    for handle in handles:
        handle.remove()
    if no_layers(subject) or any(hasattr(layer, "lengthen") for layer in adapted.layers):
        raise NotApplicable("it has no layer that acts on tokens")
    depends = [f"{type(x).__name__}: {reason}" for x, a in seen.items() if x.per_token and (reason := _mixes(x, *a))]
    require(not depends, f"per_token is True, and {depends[0] if depends else ''}: take it back, or rows get mixed up")
    plain = [layer for layer in seen if not (layer.per_token or layer.reads_mask or hasattr(layer, "pre"))]
    if plain and not any(_mixes(layer, *seen[layer]) for layer in plain):
        return "declare per_token = True in the layer: batches are then packed without padding, which is faster"
    return None


def _mixes(layer: AdapterLayer, x: Tensor, y: Tensor) -> str:
    """How a token's output depends on other tokens, in words; "" where it does not."""
    if x.ndim != 3 or y.ndim != 3:
        return "its input is no sequence of tokens"
    for mode in (False, True):
        layer.train(mode)
        try:
            whole = layer(x, y)
            if not torch.equal(whole, layer(x, y)):
                continue  # it draws random numbers while it trains
            fewer, flat = layer(x[:2, 1:3], y[:2, 1:3]), layer(x.flatten(0, 1), y.flatten(0, 1))
        except (RuntimeError, IndexError, ValueError):
            return "it does not take tokens without a batch around them"
        allowed = 1e-5 * (1 + whole.abs().max().item())
        if max(distance(fewer, whole[:2, 1:3]), distance(flat.view_as(whole), whole)) > allowed:
            return "a token's output depends on other tokens"
    return ""


@property_of("metrics")
def metrics(subject: Subject) -> None:
    """Figures for dashboards and results are numbers, at the start and after steps."""
    if not overrides(subject, "metrics"):
        raise NotApplicable("it has none")
    adapted, x = subject.attached(), subject.inputs()
    for _ in range(2):
        _, wrong = figures(subject.variant, adapted.layers)
        require(not wrong, f"{wrong[0] if wrong else ''}: give numbers, such as float(tensor.sum())")
        optimizer_steps(adapted, x, target_outputs(subject, x), 2, lr=1e-2)


@property_of("groups")
def groups(subject: Subject) -> None:
    """Optimizer groups hold each trained tensor once, with rates that follow the run's."""
    if not overrides(subject, "param_groups"):
        raise NotApplicable("they are the usual ones")
    one, two = (subject.attached().param_groups(rate) for rate in (1e-3, 2e-3))
    rates = [(float(a["lr"]), float(b["lr"])) for a, b in zip(one, two, strict=True)]
    require(all(math.isfinite(a) and a >= 0 for a, _ in rates), "a group's lr is no rate: param_groups(layers, lr)")
    kept = any(a == b != 0 for a, b in rates)
    require(not kept, "a group keeps its rate whatever --lr says: give it as a multiple of lr, or leave it out")


@property_of("size")
def size(subject: Subject) -> None:
    """The option that a budget sets grows what trains, and is refused where the map has no room for it."""
    variant = subject.variant
    if not variant.size:
        raise NotApplicable("no option of it is its size")
    known = [f.name for f in dataclasses.fields(variant)]
    name = variant.size
    require(name in known or overrides(subject, "sized"), f"size = {name!r}, which is none of {', '.join(known)}")
    counts: dict[int, int] = {}
    current = getattr(variant, name, 1)
    for wanted in (current, 2 * current, 3 * current, 4 * subject.width, 8 * subject.width):
        try:
            sized = variant.sized(wanted)
            adapted = dataclasses.replace(subject, variant=sized).trained()
        except (ValueError, AssertionError):  # its own refusal
            continue
        counts[wanted] = trained = sum(t.numel() for t in adapter_parameters(adapted).values())
        smaller = [k for k in counts if k < wanted]
        if smaller and trained <= counts[smaller[-1]]:
            beyond = wanted > subject.width
            hint = f"check_rank({name}, site) refuses it" if beyond else "a budget needs a size that grows it"
            require(False, f"{name}={wanted} trains {trained} parameters, no more than {name}={smaller[-1]}: {hint}")
        try:
            adapted.model(subject.inputs())
        except Exception as error:
            refuse = "refuse it, as check_rank(r, site) does"
            raise Broken(f"{name}={wanted} is accepted and fails in a pass ({located(error)}): {refuse}") from error
