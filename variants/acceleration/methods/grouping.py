"""Layers of equal shapes, to be computed together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from variants.layer import AdapterLayer


def alike(layers: Sequence[AdapterLayer], *names: str) -> list[list[AdapterLayer]]:
    """The layers in groups that have tensors of equal shapes, and equal numbers, under these names: a group is one
    batched operation."""
    groups = defaultdict(list)
    for layer in layers:
        values = (getattr(layer, name) for name in names)
        groups[tuple(value.shape if isinstance(value, Tensor) else value for value in values)].append(layer)
    return list(groups.values())


def stacked(layers: Sequence[AdapterLayer], name: str) -> Tensor:
    """One tensor of each layer, stacked: (layers, ...)."""
    return torch.stack([getattr(layer, name) for layer in layers])
