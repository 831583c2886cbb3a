"""Gradient clipping for stacked adapters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


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
