"""One forward pass with what all layers would do one by one done for all of them at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from variants.acceleration.overrides import Standin
from variants.acceleration.side_stream import join
from variants.layer import LOW_PRECISION, AdapterLayer

ALIGNED = 8
"""Products of 16-bit numbers are fast where every side is a multiple of this."""


def lowered(layers: Iterable[AdapterLayer]) -> Iterator[Standin]:
    """Copies of the layers' fp32 matrices in the dtype of a low-precision base, cast together.

    Products would cast them at each use: the values are those, and the gradients arrive at the fp32 tensors. A module
    whose layers have nothing left in another dtype needs no autocast.
    """
    places: dict[Tensor, list[tuple[nn.Module, str]]] = defaultdict(list)
    wanted: dict[Tensor, Cast] = {}
    rounded: dict[nn.Module, bool] = {}
    for layer in layers:
        dtype, adapters = layer.site.dtype, layer.site.module.adapter
        if dtype not in LOW_PRECISION:
            continue
        alike = True
        for module in layer.modules():
            for name, tensor in module._parameters.items():
                if tensor is not None and (cast := cast_of(layer, name, tensor)):
                    places[tensor].append((module, name))
                    wanted[tensor] = cast
                else:
                    alike = alike and (tensor is None or tensor.dtype == dtype)
            alike = alike and all(tensor is None or tensor.dtype == dtype for tensor in module._buffers.values())
        rounded[adapters] = alike and rounded.get(adapters, True)
    for tensor, copy in copies(wanted).items():
        yield from ((module, name, copy) for module, name in places[tensor])
    yield from ((adapters, "rounded", True) for adapters, alike in rounded.items() if alike)


class Cast(NamedTuple):
    """What becomes of a tensor.

    Attributes:
        dtype: of its copy.
        rank_dim: dimension that counts ranks, from the end; the copy has zeros there up to a multiple of `ALIGNED`.
    """

    dtype: torch.dtype
    rank_dim: int | None


def cast_of(layer: AdapterLayer, name: str, tensor: Tensor, stack: int = 0) -> Cast | None:
    """How a layer's tensor is rounded, or None where it is not.

    Args:
        stack: how many of the first dimensions are no part of it.
    """
    ndim = tensor.ndim - stack
    if layer.site.dtype not in LOW_PRECISION or tensor.dtype != torch.float32:
        return None
    if ndim < 2 and name not in layer.low_precision:
        return None
    dim = layer.rank_dims.get(name)
    return Cast(layer.site.dtype, None if dim is None else dim - ndim)


def copies(wanted: Mapping[Tensor, Cast]) -> dict[Tensor, Tensor]:
    """The copy of each tensor; those of one shape are made by two kernels, and their gradients by two."""
    groups: dict[tuple, list[Tensor]] = defaultdict(list)
    for tensor, cast in wanted.items():
        groups[tensor.shape, tensor.device, cast].append(tensor)
    found = {}
    for (_, _, cast), tensors in groups.items():
        for tensor, copy in zip(tensors, _Copies.apply(cast, *tensors), strict=True):
            copy.uses = [0]  # see variants.acceleration.side_stream
            found[tensor] = copy
    return found


class _Copies(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cast: Cast, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.cast, ctx.shape = cast, tensors[0].shape
        together = torch.stack(tensors)
        if cast.rank_dim is None or not (short := -together.shape[cast.rank_dim] % ALIGNED):
            return tuple(together.to(cast.dtype).unbind())
        shape = list(together.shape)
        shape[cast.rank_dim] += short
        wide = torch.zeros(shape, dtype=cast.dtype, device=together.device)
        _own(wide, cast, ctx.shape).copy_(together)
        return tuple(wide.unbind())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        join()
        known = [gradient for gradient in gradients if gradient is not None]
        if not known:
            return (None,) * (1 + len(gradients))
        together = _own(torch.stack(known), ctx.cast, ctx.shape).to(torch.float32)
        each = iter(together.unbind())
        return None, *(None if gradient is None else next(each) for gradient in gradients)


def _own(together: Tensor, cast: Cast, shape: torch.Size) -> Tensor:
    """The part of copies (n, ...) that is no padding; ``shape`` is that of one of the tensors."""
    dim = cast.rank_dim
    return together if dim is None else together.narrow(dim, 0, shape[dim])
