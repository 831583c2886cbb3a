"""One forward pass with what all layers would do one by one done for all of them at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from variants.layer import AdapterLayer

LOW_PRECISION = (torch.bfloat16, torch.float16)
Standin = tuple[nn.Module, str, Any]
"""A module, the name of one of its tensors, and what is found under that name for a while."""


@contextmanager
def standing_in(standins: Iterable[Standin]) -> Iterator[None]:
    """``with`` this, each module has another value under a name: an instance's attribute hides its parameter."""
    standins = list(standins)
    for module, name, value in standins:
        module.__dict__[name] = value
    try:
        yield
    finally:
        for module, name, _ in standins:
            del module.__dict__[name]


def lowered(layers: Iterable[AdapterLayer]) -> Iterator[Standin]:
    """Copies of the layers' fp32 matrices in the dtype of a low-precision base, cast together.

    Products would cast them at each use: the values are those, and the gradients arrive at the fp32 tensors.
    """
    groups: dict[torch.dtype, dict[Tensor, list[tuple[nn.Module, str]]]] = defaultdict(lambda: defaultdict(list))
    for layer in layers:
        if layer.site.dtype in LOW_PRECISION:
            for module in layer.modules():
                for name, tensor in module._parameters.items():
                    if tensor is not None and is_lowered(tensor, name, layer):
                        groups[layer.site.dtype][tensor].append((module, name))
    for dtype, places in groups.items():
        for own, copy in zip(places.values(), cast(list(places), dtype), strict=True):
            yield from ((module, name, copy) for module, name in own)


def is_lowered(tensor: Tensor, name: str, layer: AdapterLayer, ndim: int = 0) -> bool:
    """Whether a layer's tensor of this name is rounded where the base is; ``ndim``: how many dimensions are no part
    of it."""
    return tensor.dtype == torch.float32 and (tensor.ndim - ndim > 1 or name in layer.low_precision)


def cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Copies of fp32 tensors in another dtype, in as few kernels as there may be, as are their gradients."""
    return _Cast.apply(dtype, *tensors)


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(_copied(tensors, dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        wide = iter(_copied([g for g in gradients if g is not None], torch.float32))
        return None, *(None if gradient is None else next(wide) for gradient in gradients)


def _copied(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    copies = [torch.empty_like(tensor, dtype=dtype, memory_format=torch.contiguous_format) for tensor in tensors]
    if copies:
        torch._foreach_copy_(copies, list(tensors))
    return copies


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
