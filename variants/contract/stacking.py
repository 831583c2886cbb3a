"""Seeds trained as one stack come out as each alone does."""

from __future__ import annotations

from contextlib import nullcontext
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.stack import Stack
from variants.adapters.stacked_layer import why_not
from variants.contract.base import property_of, require
from variants.contract.models import NotApplicable, Subject, optimizer_steps, target_outputs
from variants.errors import VariantError

STEPS, LR = 3, 0.02


@property_of("stacking")
def stacked_is_alone(subject: Subject) -> None:
    """Two seeds as a stack, in accelerated passes as a trainer has them, take the steps that each takes alone."""
    if reason := why_not(subject.variant):
        raise NotApplicable(reason)
    x = subject.inputs(16)
    y = target_outputs(subject, x)
    adapted = subject.attached(seed=0)
    adapted.add("other", subject.variant, 1)
    try:
        stack = Stack(adapted, ["default", "other"])
    except VariantError as reason:
        raise NotApplicable(f"{reason}; its seeds are trained one after the other") from None
    starts = {name: {key: tensor.clone() for key, tensor in _values(adapted, name).items()} for name in stack.names}
    _train(stack, x, y)
    for seed, name in enumerate(stack.names):
        alone = subject.attached(seed=seed)
        alone.load_state_dict(starts[name])
        optimizer_steps(alone, x[8 * seed : 8 * seed + 8], y[8 * seed : 8 * seed + 8], STEPS, torch.optim.SGD, lr=LR)
        found = _values(adapted, name)
        for key, tensor in alone.state_dict().items():
            off = (found[key] - tensor).abs().max().item() / (1 + tensor.abs().max().item()) if tensor.numel() else 0.0
            require(off < 1e-4, f"stacked, {key} is off by {off:.1e} after {STEPS} steps: set stackable = False")


def _train(stack: Stack, x: Tensor, y: Tensor) -> None:
    if find_spec("variants.acceleration") is None:  # the folder may be deleted
        entered = nullcontext
    else:
        from variants.acceleration import accelerated as entered
    optimizer = torch.optim.SGD(stack.param_groups(LR))
    for step in range(1, STEPS + 1):
        with entered(stack):
            loss = 2 * F.mse_loss(stack.model(x), y)  # the sum of the two
        penalty = stack.penalty(step, STEPS)
        (loss if penalty is None else loss + penalty.sum()).backward()
        stack.before_step(step, STEPS)
        optimizer.step()
        stack.after_step(step, STEPS, optimizer)
        optimizer.zero_grad()


def _values(adapted: AdaptedModel, name: str) -> dict[str, Tensor]:
    """What an adapter beside the active one holds: its layers' tensors, and what it trains in place."""
    adapter = adapted.adapters[name]
    return {key: tensor.detach() for key, tensor in (adapter.tensors() | adapter.values).items()}
