"""Updates of layers that are alike, made together: as many operations as one of them takes."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from variants.acceleration.basics.found import found_of
from variants.acceleration.basics.overrides import Override
from variants.acceleration.basics.policy import LARGE, is_for_graph
from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.hooks import autocast
from variants.adapters.stacked_layer import shared_factor
from variants.layer import LOW_PRECISION, AdapterLayer, LowRank, has_hooks

MOST = 2**28
"""Bytes of matrices ΔW that are made at the start of a pass, and of base weights that are copied for a group of layers;
what is more is made where it is used."""
OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}


def made_together(handle: AdaptedModel) -> Iterator[Override]:
    """What layers of one class, size and setting compute of their tensors and of the base weight, made for all of them
    at once: overrides of their ``low_rank`` or ``delta_weight``, in a pass that a CUDA graph is to have. One backward
    pass goes through them.

    Left alone are layers that ask their site for more, that keep, change or draw something when asked, whose factors
    are their own tensors, whose matrices are large, that have hooks, what ``vmap`` cannot compute, and models under
    gradient checkpointing, whose parts go backwards one by one, and would each go through all of this.
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
        except Exception:  # a layer's own mistakes are raised again where it is asked alone
            return []


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
        hooked = any(map(has_hooks, layer.modules()))
        if type(layer).forward is AdapterLayer.forward and not hooked and (plain := _plain(layer)) is not None:
            sizes = [(place.name, place.tensor.shape, place.tensor.dtype) for place in _places(layer)]
            site = layer.site.in_features, layer.site.out_features, layer.site.dtype, layer.site.device
            groups[(type(layer), *site, *sizes, *plain)].append(layer)
    return [group for group in groups.values() if len(group) > 1]


def _plain(layer: AdapterLayer) -> list | None:
    """What a layer has beside its tensors, modules and site; None where no text says all of it."""
    options = vars(layer.config)
    found: list = [repr(options) if _is_plain(options) else id(layer.config)]
    for module, name, value in _attributes(layer):
        if not _is_plain(value):
            return None
        found.append((type(module), name, repr(value)))
    return found


def _is_plain(value: Any) -> bool:
    """Whether the text of a value says all of it, as that of a tensor does not."""
    if isinstance(value, dict):
        value = (*value, *value.values())
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
        ValueError: it depends on more of the site, or the layer keeps or changes something when asked.
        Exception: ``vmap`` cannot compute it.
    """
    first, places = layers[0], [_places(layer) for layer in layers]
    columns = [[place.tensor for place in column] for column in zip(*places, strict=True)]
    shared = [all(tensor is column[0] for tensor in column) for column in columns]
    twin, forms = _twin(first), []

    def one(tensors: list[Tensor], *weight: Tensor) -> list[Tensor]:
        """The parts of a layer's update that are none of its tensors; ``forms`` is what the others are."""
        twin.site.matrix = weight
        parts = _parts(twin, tensors)
        own = {id(tensor): column for tensor, column in zip(tensors, columns, strict=True)}
        forms[:] = [own.get(id(part)) if isinstance(part, Tensor) else [part] * len(layers) for part in parts]
        return [part for part, form in zip(parts, forms, strict=True) if form is None]

    low = first.site.dtype in LOW_PRECISION
    with autocast(first.site.device.type, first.site.dtype) if low else nullcontext():
        stacked = [c[0] if is_shared else torch.stack(c) for c, is_shared in zip(columns, shared, strict=True)]
        before, base = _versions(stacked), [torch.stack(weights)] if weights else []
        dims = [None if is_shared else 0 for is_shared in shared], *(0 for _ in base)
        made = vmap(one, in_dims=dims)(stacked, *base)
    if _versions(stacked) != before:
        raise ValueError(f"{type(first).__name__} changes tensors when asked for its update")
    computed = iter(_of_each(part, first.site.dtype if low and part.ndim > 2 else part.dtype) for part in made)
    values = zip(*(next(computed) if form is None else form for form in forms), strict=True)
    name = _function(first)
    for layer, parts in zip(layers, values, strict=True) if made else ():
        update = LowRank(*parts) if name == "low_rank" else parts[0]
        yield layer, name, lambda update=update: update


class _Reads(Exception):
    """A layer asks for its base weight."""


class _Site:
    """A site of which its size is known, and perhaps its weight.

    Attributes:
        matrix: (W), of (out_features, in_features), or nothing.
    """

    def __init__(self, site: Any) -> None:
        self.in_features, self.out_features, self.dtype = site.in_features, site.out_features, site.dtype
        self.matrix: tuple[Tensor, ...] = ()

    def weight(self) -> Tensor:
        """W."""
        if not self.matrix:
            raise _Reads
        return self.matrix[0]

    def times(self, x: Tensor) -> Tensor:
        """x Wᵀ."""
        return F.linear(x, self.weight())

    def __getattr__(self, name: str) -> Any:
        raise ValueError(f"an update depends on its site's {name}")  # no AttributeError: a default would hide it


def _twin(layer: AdapterLayer) -> AdapterLayer:
    """A copy with the same tensors, to ask in the layer's place: nothing that it keeps is left on the layer."""
    same = [layer.config, *(place.tensor for place in _places(layer))]
    for module in layer.modules():  # where a pass has copies of them
        same += [*module._parameters.values(), *module._buffers.values()]
    return copy.deepcopy(layer, {id(layer.site): _Site(layer.site)} | {id(value): value for value in same})


def _function(layer: AdapterLayer) -> str:
    return "low_rank" if layer.declares_low_rank else "delta_weight"


def _parts(twin: AdapterLayer, tensors: Sequence[Tensor]) -> Sequence[Any]:
    """The factors of the update of a layer's twin, or its matrix, with these tensors in the order of its places."""
    for (module, name, _), tensor in zip(_places(twin), tensors, strict=True):
        vars(module).pop(name, None)  # a pass's copy
        (module._parameters if name in module._parameters else module._buffers)[name] = tensor
    before = _plain(twin)
    update = getattr(twin, _function(twin))()
    if _plain(twin) != before or any(p.tensor is not t for p, t in zip(_places(twin), tensors, strict=True)):
        raise ValueError(f"{type(twin).__name__} keeps something when asked for its update")
    return update if isinstance(update, LowRank) else (update,)


def _versions(tensors: Iterable[Tensor]) -> list[int]:
    """Which tell whether a tensor has been changed in place; those of an inference are not counted."""
    return [tensor._version for tensor in tensors if not tensor.is_inference()]


def _of_each(part: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
    """A part (layers, ...) of each layer, cast for all at once; the same one where they share it.

    Products would cast matrices; vectors keep their digits there.
    """
    one = shared_factor(part)
    return part.to(dtype).unbind() if one is part else [one.to(dtype)] * len(part)
