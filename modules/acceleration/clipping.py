"""Gradients of stacked adapters, clipped adapter by adapter in few kernels."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from variants.acceleration.basics.torch_private import foreach_mul_, foreach_norm


@torch.no_grad()
def clip_each(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """`modules.training.gradients.clip_each` with one kernel for the norms of many tensors.

    Args:
        parameters: of S stacked adapters, each (S, ...); those without a gradient are left out.
        max_norm: of each adapter's gradients together.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    each = list(zip(*(gradient.unbind() for gradient in gradients), strict=True))
    norms = torch.stack(foreach_norm([part for parts in each for part in parts])).view(len(each), -1)
    scales = (max_norm / (torch.linalg.vector_norm(norms, dim=1) + 1e-6)).clamp(max=1.0)
    for parts, scale in zip(each, scales.unbind(), strict=True):
        foreach_mul_(parts, scale)
