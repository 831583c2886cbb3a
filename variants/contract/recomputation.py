"""Gradient checkpointing: blocks computed again in the backward pass give the gradients that blocks give once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec

import torch
from torch import Tensor

from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.stack import Stack
from variants.adapters.stacked_layer import why_not
from variants.contract.base import Broken, property_of, require
from variants.contract.models import NotApplicable, Subject
from variants.errors import VariantError, first_line
from variants.outside.places import place

LIMIT = 1e-5
"""Of a gradient's difference, relative to it."""


@property_of("checkpointing")
def recomputed_is_the_same(subject: Subject) -> None:
    """Plain and accelerated, alone and as a stack of two seeds, with the backward pass inside an accelerated block or
    behind it; what is dropped at random is dropped again."""
    ways = {"": (None, False)}
    if find_spec("variants.acceleration") is not None:  # the folder may be deleted
        ways |= {" in an accelerated pass": (True, False), " behind an accelerated pass": (False, False)}
        ways |= {" in a pass for a CUDA graph": (True, True)}
    handles: dict[str, Callable[[], AdaptedModel | Stack]] = {"": subject.trained}
    handles["over a bf16 base, "] = lambda: subject.trained(subject.model().to(torch.bfloat16))
    if not why_not(subject.variant):
        handles["stacked, "] = lambda: _stack(subject)
    for kind, make in handles.items():
        try:
            handle = make()
        except (VariantError, NotApplicable):  # its seeds are trained one after the other; it takes no such base
            continue
        for where, (inside, graph) in ways.items():
            try:
                once = _gradients(handle, subject.inputs(), False, inside, graph)
            except Exception as error:  # which other properties are about
                if not kind and not where:
                    raise NotApplicable(f"a pass fails that is not computed again: {first_line(error)}") from error
                continue
            again = _gradients(handle, subject.inputs(), True, inside, graph)
            require(once.keys() == again.keys(), f"{kind}recomputed{where}, other tensors have a gradient")
            for name, gradient in once.items():
                if not gradient.isfinite().all():
                    continue
                off = (again[name] - gradient).norm().item() / (gradient.norm().item() + 1e-12)
                require(
                    off < LIMIT,
                    f"{kind}recomputed{where}, the gradient of {name} is off by {off:.1e}: forward must compute the "
                    "same the second time, whatever it remembers of the first",
                )


def _stack(subject: Subject) -> Stack:
    adapted = subject.trained()
    adapted.add("other", subject.variant, 1)
    return Stack(adapted, ["default", "other"])


def _gradients(
    handle: AdaptedModel | Stack, x: Tensor, recomputes: bool, inside: bool | None, graph: bool
) -> dict[str, Tensor]:
    """Of a training pass.

    Args:
        inside: the backward pass is inside an accelerated block, or behind it; None: nothing is accelerated.
        graph: as in a CUDA graph.
    """
    backbone, trained = handle.model.base_model, handle.trained()
    handle.model.train()
    for parameter in trained.values():
        parameter.grad = None
    backbone.recomputes = recomputes
    torch.manual_seed(0)
    try:
        with ExitStack() as block:
            if inside is not None:
                _accelerate(handle, block, graph)
            loss = handle.model(x.to(next(backbone.parameters()).dtype)).float().square().sum()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
    except RuntimeError as error:
        if not recomputes:
            raise
        raise Broken(f"{place(error)}it cannot be computed again: {first_line(error)}") from error
    finally:
        backbone.recomputes = False
        handle.model.eval()
    return {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}


def _accelerate(handle: AdaptedModel | Stack, block: ExitStack, graph: bool) -> None:
    from variants.acceleration import accelerated
    from variants.acceleration.basics.policy import for_graph

    if graph:
        block.enter_context(for_graph())
    block.enter_context(accelerated(handle))
