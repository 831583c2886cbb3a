"""Updates of layers that are alike, made together: as many operations as one of them takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from variants.acceleration.basics.found import found_of
from variants.acceleration.basics.overrides import Override, overriding
from variants.acceleration.basics.policy import LARGE, is_for_graph
from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.hooks import autocast
from variants.adapters.stacked_layer import shared_factor
from variants.layer import LOW_PRECISION, AdapterLayer, LowRank

MOST = 2**28
"""Bytes of matrices ΔW that are made at the start of a pass; others are made where they are used."""
OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}


def made_together(handle: AdaptedModel) -> Iterator[Override]:
    """What layers of one class, size and setting compute of their tensors and of the base weight, made for all of them
    at once: overrides of their ``low_rank`` or ``delta_weight``, in a pass that a CUDA graph is to have.

    Left alone are layers that ask their site for more, that keep or draw something when asked, whose factors are their
    own tensors, whose matrices are large, what ``vmap`` cannot compute, and models under gradient checkpointing, whose
    parts go backwards one by one, and would each go through all of this.
    """
    if not is_for_graph() or any(getattr(module, "gradient_checkpointing", False) for module in handle.model.modules()):
        return
    alone: set[type] = found_of(handle).setdefault("made alone", set())
    left = MOST
    for layers in _groups(layer for layer in handle.layers if type(layer) not in alone):
        site = layers[0].site
        size = 0 if layers[0].declares_low_rank else 4 * site.out_features * site.in_features
        if size < LARGE and size * len(layers) <= left:
            left -= size * len(layers)
            made = _tried(layers)
            yield from made
            if not made:
                alone.add(type(layers[0]))


def _tried(layers: Sequence[AdapterLayer]) -> list[Override]:
    """What can be made; with copies of the base weights where the layers ask for theirs."""
    weights: list[Tensor] = []
    while True:
        try:
            return list(_made(layers, weights))
        except _Reads:
            if not (weights := _weights(layers)):
                return []
        except (RuntimeError, AttributeError, ValueError):
            return []


class _Reads(Exception):
    """A layer asks for its base weight."""


class _Site(NamedTuple):
    """What a layer may ask its site for.

    Attributes:
        matrix: W (out_features, in_features), or None where it is not at hand.
    """

    in_features: int
    out_features: int
    dtype: torch.dtype
    matrix: Tensor | None = None

    def weight(self) -> Tensor:
        """W."""
        if self.matrix is None:
            raise _Reads
        return self.matrix

    def times(self, x: Tensor) -> Tensor:
        """x Wᵀ."""
        return F.linear(x, self.weight())


def _weights(layers: Sequence[AdapterLayer]) -> list[Tensor]:
    """The base weight of each; none where they are large, or in few bits."""
    sites = [layer.site for layer in layers]
    size = sum(site.out_features * site.in_features * site.parameter.element_size() for site in sites)
    if size > MOST or any(site.parameter.dtype != site.dtype for site in sites):
        return []
    return [site.weight().detach() for site in sites]


class _Place(NamedTuple):
    """A tensor of a layer: the module that has it, its name there, and what the pass has under that name."""

    module: nn.Module
    name: str
    tensor: Tensor


def _places(layer: AdapterLayer) -> list[_Place]:
    return [
        _Place(module, name, getattr(module, name))
        for module in layer.modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    ]


def _groups(layers: Iterable[AdapterLayer]) -> list[list[AdapterLayer]]:
    """Of the layers that do nothing but add their update: those that differ in the values of their tensors alone."""
    groups: dict[tuple, list[AdapterLayer]] = defaultdict(list)
    for layer in layers:
        if type(layer).forward is AdapterLayer.forward and not layer.hooked and (plain := _plain(layer)) is not None:
            sizes = [(place.name, place.tensor.shape, place.tensor.dtype) for place in _places(layer)]
            site = layer.site.in_features, layer.site.out_features, layer.site.dtype, layer.site.device
            groups[(type(layer), *site, *sizes, *plain)].append(layer)
    return [group for group in groups.values() if len(group) > 1]


def _plain(layer: AdapterLayer) -> list | None:
    """What a layer has beside its tensors, modules and site; None where no text says all of it."""
    found: list = [repr(vars(layer.config))]
    for module, name, value in _attributes(layer):
        if not _is_plain(value):
            return None
        found.append((type(module), name, repr(value)))
    return found


def _is_plain(value: Any) -> bool:
    """Whether the text of a value says all of it, as that of a tensor does not."""
    if isinstance(value, (tuple, list, frozenset)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _attributes(layer: AdapterLayer) -> Iterator[tuple[nn.Module, str, Any]]:
    for module in layer.modules():
        known = OF_EVERY_MODULE | module._parameters.keys() | module._buffers.keys()
        known |= {"site", "config"} if module is layer else set()
        yield from ((module, name, value) for name, value in vars(module).items() if name not in known)


def _made(layers: Sequence[AdapterLayer], weights: Sequence[Tensor]) -> Iterator[Override]:
    """The overrides; none where the update consists of a layer's own tensors.

    Args:
        weights: the base weight of each layer, or none.

    Raises:
        _Reads: it depends on the base weight, of which there is none.
        AttributeError: it depends on more of the site.
        RuntimeError, ValueError: ``vmap`` cannot compute it, or the layer keeps something when asked.
    """
    first, places = layers[0], [_places(layer) for layer in layers]
    columns = [[place.tensor for place in column] for column in zip(*places, strict=True)]
    shared = [all(tensor is column[0] for tensor in column) for column in columns]
    forms: list[Any] = []

    def one(tensors: list[Tensor], *matrix: Tensor) -> list[Tensor]:
        """The parts of a layer's update that are none of its tensors; ``forms`` is what the others are."""
        site = _Site(first.site.in_features, first.site.out_features, first.site.dtype, *matrix)
        own_tensors = [(place.module, place.name, t) for place, t in zip(places[0], tensors, strict=True)]
        parts = _parts(first, [(first, "site", site), *own_tensors])
        own = {id(tensor): column for tensor, column in zip(tensors, columns, strict=True)}
        forms[:] = [own.get(id(part)) if isinstance(part, Tensor) else [part] * len(layers) for part in parts]
        return [part for part, form in zip(parts, forms, strict=True) if form is None]

    low = first.site.dtype in LOW_PRECISION
    with autocast(first.site.device.type, first.site.dtype) if low else nullcontext():
        stacked = [c[0] if is_shared else torch.stack(c) for c, is_shared in zip(columns, shared, strict=True)]
        dims = [None if is_shared else 0 for is_shared in shared], *([0] if weights else [])
        made = vmap(one, in_dims=dims)(stacked, *([torch.stack(weights)] if weights else []))
    computed = iter(_of_each(part, first.site.dtype if low and part.ndim > 2 else part.dtype) for part in made)
    values = zip(*(next(computed) if form is None else form for form in forms), strict=True)
    name = _function(first)
    for layer, parts in zip(layers, values, strict=True) if made else ():
        update = LowRank(*parts) if name == "low_rank" else parts[0]
        yield layer, name, lambda update=update: update


def _function(layer: AdapterLayer) -> str:
    return "low_rank" if layer.declares_low_rank else "delta_weight"


def _parts(layer: AdapterLayer, overrides: Iterable[Override]) -> Sequence[Any]:
    """The factors of a layer's update, or its matrix: with these tensors in it, and this site."""
    with overriding(overrides):
        before = {(id(module), name): id(value) for module, name, value in _attributes(layer)}
        update = getattr(layer, _function(layer))()
        if before != {(id(module), name): id(value) for module, name, value in _attributes(layer)}:
            raise ValueError(f"{type(layer).__name__} keeps something when asked for its update")
    return update if isinstance(update, LowRank) else (update,)


def _of_each(part: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
    """A part (layers, ...) of each layer, cast for all at once; the same one where they share it.

    Products would cast matrices; vectors keep their digits there.
    """
    one = shared_factor(part)
    return part.to(dtype).unbind() if one is part else [one.to(dtype)] * len(part)
