"""What a variant's training must hold to: where it starts, what trains, by which rates, that it learns and goes on."""

from __future__ import annotations

import ast
import copy
import inspect
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from variants.adapters.adapted_model import AdaptedModel
from variants.contract.base import Broken, property_of, require
from variants.contract.models import (
    NotApplicable,
    Subject,
    adapter_parameters,
    distance,
    optimizer_steps,
    shift,
    target_outputs,
)
from variants.contract.state import base_stays
from variants.contract.watch.attributes import differing, kept
from variants.errors import shown
from variants.outside.places import assigned, definition
from variants.variant import BaseVariant


@property_of("identity at start")
def identity(subject: Subject) -> None:
    """A fresh adapter leaves the model's outputs as they were, where the variant declares so."""
    if not subject.variant.identity_at_start:
        raise NotApplicable("it declares identity_at_start = False")
    model, x = subject.model(), subject.inputs()
    before = model(x)
    subject.attached(model)
    off = distance(model(x), before)
    remedy = "start from an update of zero, or set identity_at_start = False, or subtract_initial = True"
    require(off < 1e-5, f"a fresh adapter changes the output by {off:.1e}: {remedy}")


@property_of("output moves")
@torch.no_grad()
def moves(subject: Subject) -> None:
    """Every trained tensor has a say in the output."""
    adapted, x = subject.trained(), subject.inputs()
    if not adapter_parameters(adapted):
        raise NotApplicable("it trains nothing but the head")
    before = adapted.model(x)
    for name, tensor in adapter_parameters(adapted).items():
        saved = tensor.clone()
        shift(tensor, 50)
        moved = distance(adapted.model(x), before) > 1e-6
        require(moved, f"the output does not depend on {name}: use it, leave it out, or make it a buffer")
        tensor.copy_(saved)


@property_of("gradients")
def gradients(subject: Subject) -> None:
    """Gradients reach all that the variant trains, and nothing else."""
    adapted = subject.trained()
    for _ in range(4):  # what is dropped at random in one pass is there in another
        adapted.model.train()(subject.inputs()).square().sum().backward()
    trained = adapted.trained()
    for name, tensor in trained.items():
        reached = tensor.grad is not None and bool(tensor.grad.any())
        require(reached, f"no gradient reaches {name}: use it in forward without detach(), or make it a buffer")
    ids = {id(tensor) for tensor in trained.values()}
    for name, tensor in adapted.model.named_parameters():
        ours = id(tensor) in ids or not tensor.requires_grad
        require(ours, f"{name} gets a gradient and is not the variant's: let trainable(model) name it")


@property_of("parameter count")
def parameter_count(subject: Subject) -> None:
    """count() is the number of values that an optimizer step changes."""
    adapted, x = subject.trained(), subject.inputs(32)
    tensors, head = dict(adapted.model.named_parameters()), set(adapted.head)
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    optimizer = torch.optim.Adam(adapted.param_groups(1e-2))
    for mode in (False, True, True):  # what is dropped at random while it trains moves in evaluation
        adapted.model.train(mode)(x).square().sum().backward()
        optimizer.step()
    changed, still = {"adapter": 0, "head": 0}, ""
    sparse = {id(layer.get_parameter(name)) for layer in adapted.layers for name in layer.sparse}
    for name, tensor in tensors.items():
        moved = tensor.detach() != before[name]
        if id(tensor) in sparse and moved.any():
            moved = torch.ones_like(moved)  # the others' turn comes when they are chosen
        changed["head" if name in head else "adapter"] += int(moved.sum())
        if tensor.requires_grad and not moved.all():
            still = still or f": {name.replace('.adapter.layers.0', '')} is not changed, or not all of it"
    count = adapted.count()
    for part, number in changed.items():
        require(number == count[part], f"count() says {count[part]} for the {part}, and steps change {number}{still}")


@property_of("learns")
def learns(subject: Subject) -> None:
    """Training brings a loss down by a tenth, at one of three learning rates."""
    x, best = subject.inputs(32), math.inf
    target = target_outputs(subject, x)
    for lr in (1e-2, 1e-1, 1e-3):
        adapted = subject.attached()
        losses = optimizer_steps(adapted, x, target, 40, lr=lr, head_lr=0.0 if adapter_parameters(adapted) else lr)
        best = min(best, losses[-1] / losses[0])
        if best < 0.9:
            return
    raise Broken(f"after 40 steps the loss is at best {best:.2f} of what it was")


# ---- an optimizer of its own ----------------------------------------------------------------------------------------

RATE = 1e-2


@property_of("optimizer")
def optimizers(subject: Subject) -> None:
    """An optimizer of its own has all that trains, and steps at the rates of its groups, as a schedule sets them."""
    made = type(subject.variant).optimizer
    if made is BaseVariant.optimizer:
        raise NotApplicable("AdamW takes its steps")
    at, adapted = _place(made), subject.attached()
    groups = _groups(adapted)
    optimizer = adapted.optimizer(groups)
    if optimizer is None:
        require(_returns(made), f"{at}optimizer(groups) returns nothing: return the optimizer, or None for AdamW")
        raise NotApplicable("its optimizer(groups) gives None: AdamW takes its steps")
    names = {id(p): name for name, p in adapted.trained().items()}
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    left = [name for key, name in names.items() if key not in held]
    require(not left, f"{at}optimizer(groups) leaves out {left[0] if left else ''}: hand all of the groups on to it")
    step = _place(type(optimizer).step) or at
    whole = _changes(subject, step)
    for number, group in enumerate(optimizer.param_groups):
        ours = [names[id(p)] for p in group["params"] if id(p) in names]
        same = _alike(whole, _changes(subject, step, scheduled=number), ours)
        remedy = 'read group["lr"] in every step'
        require(not same, f"{step}the optimizer steps {same} alike when a schedule halves its rate: {remedy}")
    for number, group in enumerate(groups):
        same = _alike(whole, _changes(subject, step, given=number), [names[id(p)] for p in group["params"]])
        remedy = "hand the groups on as they are, each with its lr"
        require(not same, f"{at}optimizer(groups) steps {same} alike whatever the lr of its group is: {remedy}")


def _place(function: Callable) -> str:
    return f"{at}: " if (at := definition(function)) else ""


def _returns(function: Callable) -> bool:
    """Whether a function says anywhere what it returns; one without source may."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return True
    return any(isinstance(node, (ast.Return, ast.Lambda)) for node in ast.walk(tree))


def _groups(adapted: AdaptedModel) -> list[dict]:
    return [{"weight_decay": 0.0} | group for group in adapted.param_groups(RATE)]


def _changes(subject: Subject, at: str, given: int | None = None, scheduled: int | None = None) -> Mapping[str, Tensor]:
    """What two steps of the variant's optimizer change, by name.

    Args:
        at: where its step stands.
        given: number of the group that it is made with at half the rate.
        scheduled: number of its group whose rate is halved later.
    """
    adapted, x = subject.trained(), subject.inputs()
    groups, target = _groups(adapted), target_outputs(subject, x)
    if given is not None:
        groups[given]["lr"] /= 2
    optimizer = adapted.optimizer(groups)
    if scheduled is not None:
        optimizer.param_groups[scheduled]["lr"] /= 2
    before, passes = {name: p.detach().clone() for name, p in adapted.trained().items()}, 0

    def closure() -> Tensor:
        nonlocal passes
        passes += 1
        optimizer.zero_grad()
        loss = F.mse_loss(adapted.model(x), target)
        loss.backward()
        return loss

    remedy = (
        "it is step(closure=None), and calls the closure first with gradients enabled: trainers take the pass there"
    )
    try:
        inspect.signature(optimizer.step).bind(closure=closure)
    except TypeError:
        raise Broken(f"{at}step() of the optimizer takes no closure: {remedy}") from None
    for step in (1, 2):
        torch.manual_seed(step)
        optimizer.step(closure=closure)
    require(passes > 1, f"{at}step() of the optimizer does not call its closure: {remedy}")
    return {name: p.detach() - before[name] for name, p in adapted.trained().items()}


def _alike(whole: Mapping[str, Tensor], halved: Mapping[str, Tensor], names: Iterable[str]) -> str:
    """The first of ``names`` that moves, and in both cases alike; "" where none does."""
    return next((name for name in names if whole[name].any() and torch.equal(whole[name], halved[name])), "")


# ---- a run that is resumed ------------------------------------------------------------------------------------------

STEPS, BREAK = 12, 5


KEEP = "keep it in a persistent buffer of a layer, which after_step fills, or work it out from step"


@property_of("resume")
def resumed_is_unbroken(subject: Subject) -> None:
    """A run that goes on from a checkpoint takes the steps of one that never stopped."""
    whole, broken = _Run(subject), _Run(subject)
    whole.go(1, BREAK)
    broken.load(whole)
    whole.go(BREAK + 1, STEPS)
    broken.go(BREAK + 1, STEPS)
    found, expected = broken.adapted.state_dict(), whole.adapted.state_dict()
    off = next((name for name, tensor in expected.items() if not torch.equal(found[name], tensor)), "")
    resumed = f"resumed after {BREAK} of {STEPS} steps,"
    if lost := whole.lost(broken):
        how = "training comes to other values" if off else "a run lacks state"
        raise Broken(f"{lost[0]}{resumed} {how}: {lost[1]}")
    if off:
        base_stays(subject)  # or it is the base that changes
    require(not off, f"{resumed} {off} comes to other values: {KEEP}")


class _Run:
    """A training run of a variant."""

    def __init__(self, subject: Subject) -> None:
        self.adapted, self.x = subject.attached(), subject.inputs(32)
        self.target = target_outputs(subject, self.x)
        groups = _groups(self.adapted)
        self.optimizer = self.adapted.optimizer(groups) or torch.optim.AdamW(groups)

    def load(self, other: _Run) -> None:
        """Take over what a checkpoint holds."""
        self.adapted.load_state_dict(copy.deepcopy(other.adapted.state_dict()))
        self.optimizer.load_state_dict(copy.deepcopy(other.optimizer.state_dict()))

    def go(self, first: int, last: int) -> None:
        """Take steps, for each of which the global generator is seeded as it is for a trainer's epoch."""
        adapted, variant = self.adapted, type(self.adapted.variant)

        def unseeded(hook: str) -> None:
            remedy = "random numbers of the whole run begin anew there: draw from a torch.Generator of its own"
            at = _place(getattr(variant, hook))
            require(torch.initial_seed() == step, f"{at}{hook} calls torch.manual_seed: {remedy}")

        for step in range(first, last + 1):
            torch.manual_seed(step)
            loss, penalty = F.mse_loss(adapted.model.train()(self.x), self.target), adapted.penalty(step, STEPS)
            (loss if penalty is None else loss + penalty).backward()
            adapted.before_step(step, STEPS)
            unseeded("before_step")
            self.optimizer.step()
            adapted.after_step(step, STEPS, self.optimizer)
            unseeded("after_step")
            self.optimizer.zero_grad()

    def lost(self, other: _Run) -> tuple[str, str] | None:
        """(where, which) plain attribute is another in a run that was resumed, and where it belongs; None for none."""
        owners = [(run.adapted.variant, run.optimizer, *run.adapted.layers) for run in (self, other)]
        for one, two in zip(*owners, strict=True):
            values = _unsaved(one), _unsaved(two)
            for name in differing(*values):
                at = assigned(name, type(self.adapted.variant), type(one), last=True)
                now, then = (each.get(name) for each in values)
                how = "another" if isinstance(now, Tensor) else f"{shown(then)} in place of {shown(now)}"
                keep = "keep it in the optimizer's state" if one is self.optimizer else KEEP
                return f"{at}: " if at else "", f"{type(one).__name__}.{name} is then {how}; {keep}"
        return None


def _unsaved(owner: object) -> dict[str, Any]:
    """What a checkpoint lacks of a variant, an optimizer or a layer: plain attributes, buffers that do not persist."""
    buffers = owner.named_buffers() if isinstance(owner, torch.nn.Module) else ()
    return kept(owner) | {name: t for name, t in buffers if name not in owner.state_dict()}
