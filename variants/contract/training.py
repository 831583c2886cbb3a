"""What a variant's training must hold to: where it starts, what trains, that it learns."""

from __future__ import annotations

import math

import torch

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
