"""Gradients of what trains: whether there are any, and clipped for each of stacked adapters."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Trainer
from torch import nn

from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.stack import Stack
from variants.errors import UserError

if TYPE_CHECKING:
    from modules.training.acceleration import TrainingStep


@torch.no_grad()
def clip_each(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Scale the gradients of each adapter to a norm of at most ``max_norm``, as ``clip_grad_norm_`` does for a model.

    Args:
        parameters: of S stacked adapters, each (S, ...); those without a gradient are left out.
        max_norm: of each adapter's gradients together.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    each = zip(*(gradient.unbind() for gradient in gradients), strict=True)
    norms = torch.stack([nn.utils.get_total_norm(own) for own in each])
    scales = (max_norm / (norms + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scales.view(-1, *[1] * (gradient.ndim - 1)))


def check_gradients(adapted: AdaptedModel | Stack, step: TrainingStep | None, trainer: Trainer) -> None:
    """Whether everything that trains got a gradient, in some process at least; all of them come to one end.

    A layer that no pass has called is only named: a router may send tokens there later.

    Args:
        step: what has computed the gradients, where it is not Lightning.

    Raises:
        UserError: a parameter of another layer has none, or no layer was called.
    """
    trained, layers = adapted.trained(), [layer.site.path for layer in adapted.layers]
    without, passed_over = {id(p) for p in step.unused} if step else set(), set(adapted.uncalled())
    got = _anywhere(trainer, [p.grad is not None and id(p) not in without for p in trained.values()])
    called = _anywhere(trainer, [path not in passed_over for path in layers])
    unused = [name for name, found in zip(trained, got, strict=True) if not found]
    uncalled = tuple(f"{path}." for path, found in zip(layers, called, strict=True) if not found)
    if lost := [name for name in unused if not name.startswith(uncalled)]:
        raise UserError(
            f"{lost[0]} trains but gets no gradient ({len(lost)} such tensors): the model does not use it, "
            "so leave it out of the target"
        )
    if uncalled:
        text = f"no pass has called {uncalled[0][:-1]} before the first step ({len(uncalled)} such layers)"
        if len(uncalled) == len(layers):
            raise UserError(f"{text}: the model reads these weights itself, so name other maps as the target")
        if trainer.is_global_zero:
            warnings.warn(f"{text}: unless a router sends tokens there later, leave it out of the target", stacklevel=2)


def _anywhere(trainer: Trainer, found: list[bool]) -> list[bool]:
    """Of each whether it is so in any process."""
    flags = torch.tensor(found, dtype=torch.int32, device=trainer.strategy.root_device)
    return trainer.strategy.reduce(flags, reduce_op="max").bool().tolist()
