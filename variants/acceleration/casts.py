"""Casts of all layers' matrices to the precision of the base, in few operations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from variants.acceleration.basics.fast_paths import FORWARDS, PRODUCTS_ALONE
from variants.acceleration.basics.overrides import Override
from variants.acceleration.products.side_stream import join, track
from variants.adapters.stack import Stack
from variants.layer import LOW_PRECISION, AdapterLayer, LowRank

ALIGNED = 8
"""Products of 16-bit numbers are fast where every side is a multiple of this."""


def lowered(layers: Iterable[AdapterLayer]) -> tuple[list[Override], set[nn.Module]]:
    """Copies of the layers' fp32 matrices in the dtype of a low-precision base, cast together.

    Products would cast them at each use: the values are those, and the gradients arrive at the fp32 tensors.

    Returns:
        The copies as overrides, and the modules' adapters that have nothing left in another dtype: they need no
        autocast.
    """
    places: dict[Tensor, list[tuple[nn.Module, str]]] = defaultdict(list)
    wanted: dict[Tensor, Cast] = {}
    whole: dict[nn.Module, bool] = {}
    for layer in layers:
        if layer.site.dtype not in LOW_PRECISION:
            continue
        casts = casts_of(layer)
        for path, module in layer.named_modules():
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                key = f"{path}.{name}" if path else name
                if tensor is not None and key in casts:
                    places[tensor].append((module, name))
                    wanted[tensor] = casts[key]
                elif tensor is not None and tensor.dtype != layer.site.dtype:
                    whole[layer.site.module.adapter] = False
        whole.setdefault(layer.site.module.adapter, True)
    made = copies(wanted)
    overrides = [(module, name, copy) for tensor, copy in made.items() for module, name in places[tensor]]
    return overrides, {adapters for adapters, rounded in whole.items() if rounded}


def lowered_stack(stack: Stack) -> list[Override]:
    """As :func:`lowered`, of the stacked tensors."""
    slots: dict[Tensor, str] = {}
    wanted: dict[Tensor, Cast] = {}
    for path, layer in stack.adapters[0].layers.items():
        casts = casts_of(layer) if layer.site.dtype in LOW_PRECISION else {}
        for name, slot in stack.slots(path):
            tensor = stack._parameters.get(slot)
            if tensor is not None and name in casts:
                slots[tensor], wanted[tensor] = slot, casts[name]
    return [(stack, slots[tensor], copy) for tensor, copy in copies(wanted).items()]


class Cast(NamedTuple):
    """What becomes of a tensor.

    Attributes:
        dtype: of its copy.
        rank_dim: dimension that counts ranks, from the end; the copy has zeros there up to a multiple of `ALIGNED`.
    """

    dtype: torch.dtype
    rank_dim: int | None


def casts_of(layer: AdapterLayer) -> dict[str, Cast]:
    """Name of each fp32 parameter of a layer that is rounded to the base's dtype -> how.

    Factors of a declared update are, and the matrices of layers that are known to use them in products alone. What
    others make of theirs (inverses, norms) is their business: it may need all digits, as DoRA's magnitude does.
    """
    update = layer.low_rank() if layer.adds_low_rank or type(layer).forward in FORWARDS else None
    if layer.adds_low_rank:
        factors = {id(tensor) for tensor in update}
        chosen = [(name, p) for name, p in layer.named_parameters() if id(p) in factors]
    elif type(layer).forward in FORWARDS or type(layer) in PRODUCTS_ALONE:
        chosen = [(name, p) for name, p in layer.named_parameters() if p.ndim > 1]
    else:
        return {}
    dims = {} if update is None else _rank_dims(layer, update)
    return {name: Cast(layer.site.dtype, dims.get(name)) for name, p in chosen if p.dtype == torch.float32}


def _rank_dims(layer: AdapterLayer, update: LowRank) -> dict[str, int]:
    """Name of each factor of a declared update -> its dimension that counts ranks, from the end.

    Zeros may be appended there without a change of the output, if to all factors alike: they are all the layer's own
    parameters, and nothing else of the layer looks at them.
    """
    own = {id(parameter): name for name, parameter in layer.named_parameters()}
    dims = [(update.A, -2), (update.B, -1), *([] if update.inner is None else [(update.inner, -1)])]
    if any(id(tensor) not in own for tensor, _ in dims) or (update.inner is not None and update.inner.ndim != 1):
        return {}
    return {own[id(tensor)]: dim for tensor, dim in dims}


def copies(wanted: Mapping[Tensor, Cast]) -> dict[Tensor, Tensor]:
    """The copy of each tensor; those of one shape are made by two kernels, and their gradients by two."""
    groups: dict[tuple, list[Tensor]] = defaultdict(list)
    for tensor, cast in wanted.items():
        groups[tensor.shape, tensor.device, cast].append(tensor)
    found = {}
    for (_, _, cast), tensors in groups.items():
        for tensor, copy in zip(tensors, _Copies.apply(cast, *tensors), strict=True):
            found[tensor] = track(copy)
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
