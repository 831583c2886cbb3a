"""Adapters of one configuration, such as its seeds, trained at once on one frozen base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from variants.adapters import hooks
from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.adapter import Adapter
from variants.adapters.stacked_layer import (
    StackedLayer,
    Swapped,
    different,
    for_each,
    hooked,
    joined,
    unstackable,
    why_not,
)
from variants.errors import VariantError
from variants.layer import AdapterLayer, full_precision
from variants.new_tokens import modules_of as new_rows
from variants.sites.kinds.few_bits import packed_maps
from variants.training.hooks import as_tensor, gradients, put_back
from variants.training.optimizers import forget
from variants.variant import BaseVariant

Place = tuple[nn.Module, str]
"""A module and the name of one of its own parameters or buffers."""
_BEGUN = "begun/"
"""Before the names of stacked tensors: the values that they began with."""


class Stack(nn.Module):
    """S adapters of a model as one: a batch holds equally many rows for each, the first adapter's first.

    What each adapter trains, its head included, is one tensor (S, ...) here; the adapters' own tensors become views
    of it. A layer runs once for all, under ``vmap``: a variant need not know of it. To a trainer it is what
    :class:`AdaptedModel` is (``trained``, ``param_groups``, ``penalty``, ``after_step``, checkpoints). Buffers that are
    neither persistent nor different between the adapters (a bank of random matrices) are kept once for all.

    Args:
        adapted: the handle; whichever adapter is active is put aside.
        names: of its adapters, which differ in their seeds alone.

    Raises:
        VariantError: the variant cannot be stacked, or the adapters are not of one configuration.
    """

    def __init__(self, adapted: AdaptedModel, names: Sequence[str]) -> None:
        super().__init__()
        adapted.deactivate()
        self.adapted, self.names, self.size = adapted, list(names), len(names)
        self.adapters: list[Adapter] = [adapted.adapters[name] for name in names]
        self._check()
        self._places: dict[str, list[list[Place]]] = {}  # tensor -> for each adapter where it has its share
        self._common: set[str] = set()  # tensors that are kept once for all adapters
        self._own: dict[str, list[tuple[str, str]]] = {}  # site path -> a stacked tensor's names in its layer and here
        self._undo: list[Callable[[], None]] = []
        self._collect()
        self._bind()
        self._hook()

    @property
    def variant(self) -> BaseVariant:
        """The method and hyperparameters that all adapters have."""
        return self.adapters[0].variant

    @property
    def model(self) -> nn.Module:
        """The model that all adapters share."""
        return self.adapted.model

    @property
    def layers(self) -> list[AdapterLayer]:
        """Those of the first adapter: the others are of the same kind at the same sites."""
        return list(self.adapters[0].layers.values())

    def _check(self) -> None:
        first, name = self.adapters[0], self.variant.name
        reason = why_not(self.variant, packed=bool(packed_maps(self.model)))
        if new_rows(self.model):
            reason = "rows of new tokens are looked up for all seeds together"
        if not all(layer.site.sees_batch for layer in first.layers.values()):
            reason = "experts get tokens that a router has chosen, of all seeds together"
        reason = reason or unstackable(self.model, self.variant, first.in_place, first.layers.values())
        if reason:
            raise VariantError(f"{name} cannot be stacked: {reason}")
        for other in self.adapters[1:]:
            if other.variant != first.variant or list(other.layers) != list(first.layers):
                raise VariantError("only adapters of one variant, options and all, can be stacked")
            for path, layer in first.layers.items():
                if unlike := different(layer, other.layers[path]):
                    reason = f"{unlike} of {path} differs between seeds, and only tensors are kept for each"
                    raise VariantError(f"{name} cannot be stacked: {reason}: make it a buffer")

    # ---- tensors -------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Stack what the adapters train and their state; note where each one has its share."""
        each = [_places(adapter.layers) for adapter in self.adapters]
        kept = type(self.variant).after_step is BaseVariant.after_step  # nothing changes a buffer of one adapter alone
        known: dict[int, str] = {}  # a tensor that several layers share is kept once
        for name, (module, leaf) in each[0].items():
            key = known.setdefault(id(getattr(module, leaf)), name)
            shares = self._places.setdefault(key, [[] for _ in self.adapters])
            for share, places in zip(shares, each, strict=True):
                share.append(places[name])
        for key, shares in self._places.items():
            tensors = [getattr(*share[0]) for share in shares]
            module, leaf = shares[0][0]
            slot, trains = _slot(key), isinstance(tensors[0], nn.Parameter) and tensors[0].requires_grad
            if trains:
                stacked = nn.Parameter(torch.stack([t.detach() for t in tensors]))
                if any(t._backward_hooks for t in tensors):
                    stacked.register_hook(partial(hooked, tensors))
                self.register_parameter(slot, stacked)
            elif (
                kept and leaf in module._non_persistent_buffers_set and all(torch.equal(t, tensors[0]) for t in tensors)
            ):
                self.register_buffer(slot, tensors[0], persistent=False)
                self._common.add(key)
            else:
                self.register_buffer(slot, torch.stack([t.detach() for t in tensors]))
            if firsts := [adapter.initial[key] for adapter in self.adapters if key in adapter.initial]:
                self.register_buffer(_BEGUN + slot, torch.stack(firsts), persistent=False)
        for path, layer in self.adapters[0].layers.items():
            keys = {name: known[id(getattr(*place))] for name, place in _places({"": layer}).items()}
            self._own[path] = [(name, _slot(key)) for name, key in keys.items() if key not in self._common]
        for key in self.adapters[0].in_place:
            self.register_parameter(_slot(key), nn.Parameter(torch.stack([a.values[key] for a in self.adapters])))

    @torch.no_grad()
    def _bind(self) -> None:
        """Make the adapters' own tensors views of the stacked ones."""
        for key, shares in self._places.items():
            stacked = getattr(self, _slot(key)).detach()
            views = [stacked] * self.size if key in self._common else stacked.unbind()
            for view, share in zip(views, shares, strict=True):
                for module, leaf in share:
                    if leaf in module._parameters:
                        module._parameters[leaf].data = view
                    else:
                        module._buffers[leaf] = view
        for key in self.adapters[0].in_place:
            for adapter, view in zip(self.adapters, getattr(self, _slot(key)).detach().unbind(), strict=True):
                adapter.values[key] = view

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Stack:
        super()._apply(fn, recurse)  # moved to a device, for one
        self._bind()
        return self

    def slots(self, path: str) -> list[tuple[str, str]]:
        """Of each stacked tensor of a site's layers: its name in a layer, and its name among this module's."""
        return self._own[path]

    def own(self, path: str) -> dict[str, Tensor]:
        """The stacked tensors of a site's layers, by their names in one of them."""
        return {name: getattr(self, slot) for name, slot in self.slots(path)}

    def begun(self, path: str) -> dict[str, Tensor]:
        """As :meth:`own`, the values that the adapters began with."""
        return {name: getattr(self, _BEGUN + slot, getattr(self, slot)) for name, slot in self.slots(path)}

    # ---- how the model uses them -----------------------------------------------------------------------------

    def _hook(self) -> None:
        off = self.variant.subtract_initial
        layers = [
            StackedLayer(self.size, layer, partial(self.own, path), partial(self.begun, path) if off else None)
            for path, layer in self.adapters[0].layers.items()
        ]
        for module in hooks.hook_all(layers):
            self._undo.append(lambda module=module: hooks.unhook(module))
        keys = self.adapters[0].in_place
        owners = dict.fromkeys(key.rpartition(".")[0] for key in keys)
        for path in [p for p in owners if not any(p.startswith(f"{other}.") for other in owners)]:
            if not path:
                raise VariantError(f"{self.variant.name} cannot be stacked: the whole model is its task head")
            module = self.model.get_submodule(path)
            inside = {key[len(path) + 1 :]: getattr(self, _slot(key)) for key in keys if key.startswith(f"{path}.")}
            module.forward = joined(for_each(self.size, module, module.forward, lambda inside=inside: inside))
            self._undo.append(lambda module=module: delattr(module, "forward"))

    def release(self) -> None:
        """Take the stack off the model; the handle's adapters hold what was learnt."""
        for call in reversed(self._undo):
            call()
        self._undo.clear()

    @contextmanager
    def alone(self, index: int) -> Iterator[AdaptedModel]:
        """``with`` this, the handle speaks of one adapter: to save, count and describe it, not to compute."""
        self.adapted.active = self.names[index]
        try:
            yield self.adapted
        finally:
            self.adapted.active = None

    def uncalled(self) -> list[str]:
        """As :meth:`AdaptedModel.uncalled`."""
        return hooks.uncalled(self.layers)

    # ---- what a trainer needs ------------------------------------------------------------------------------

    def trained(self) -> dict[str, nn.Parameter]:
        """Every stacked parameter (S, ...), layers first; names as in an adapter's file."""
        return {name.replace("/", "."): parameter for name, parameter in self.named_parameters()}

    def param_groups(self, lr: float, head_lr: float | None = None, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Optimizer groups as one adapter has them, of the stacked tensors; right for optimizers that work entry by
        entry, as Adam does."""
        first = self.adapters[0]
        in_model = dict(self.model.named_parameters())
        stacked = {id(in_model[key]): getattr(self, _slot(key)) for key in first.in_place}
        for key, shares in self._places.items():
            stacked |= {id(getattr(*place)): getattr(self, _slot(key)) for place in shares[0]}
        groups = first.param_groups(in_model, set(self.adapted.head), lr, head_lr, weight_decay)
        return [group | {"params": [stacked[id(p)] for p in group["params"]]} for group in groups]

    def penalty(self, step: int | Tensor, total_steps: int) -> Tensor | None:
        """As :meth:`AdaptedModel.penalty`, of each adapter, (S,), or None."""
        if type(self.variant).penalty is BaseVariant.penalty:
            return None
        each, step = self.layers, as_tensor(step, next(self.model.parameters()).device)
        every = Swapped(nn.ModuleList(each), lambda: self.variant.penalty(each, step, total_steps))
        own = [(number, *pair) for number, layer in enumerate(each) for pair in self.own(layer.site.path).items()]
        stacked = {f"inner.{number}.{name}": tensor for number, name, tensor in own}

        def one(tensors: dict[str, Tensor]) -> Tensor:
            penalty = functional_call(every, tensors, (), tie_weights=False)
            return torch.zeros(()) if penalty is None else penalty

        with full_precision(step):
            return vmap(one, randomness="different")(stacked)

    def optimizer(self, groups: list[dict[str, Any]]) -> None:
        """None: a variant with an optimizer of its own is not stacked."""

    def before_step(self, step: int, total_steps: int) -> None:
        """To be called before each optimizer step: the variant's own, adapter by adapter, on its share of gradients."""
        if type(self.variant).before_step is not BaseVariant.before_step:
            with self._gradients():
                for adapter in self.adapters:
                    self.variant.before_step(list(adapter.layers.values()), step, total_steps)

    def after_step(self, step: int, total_steps: int, optimizer: torch.optim.Optimizer | None = None) -> None:
        """To be called after each optimizer step, before its gradients are cleared: the variant's own, adapter by
        adapter."""
        if type(self.variant).after_step is BaseVariant.after_step:
            return
        with self._gradients():
            for index, adapter in enumerate(self.adapters):
                anew = {id(p) for p in self.variant.after_step(list(adapter.layers.values()), step, total_steps) or ()}
                for key, shares in self._places.items():
                    if any(id(getattr(*place)) in anew for place in shares[index]):
                        forget(optimizer, [getattr(self, _slot(key))], index)

    @contextmanager
    def _gradients(self) -> Iterator[None]:
        """``with`` this, adapters' parameters have their shares of gradients."""
        trained = {key: shares for key, shares in self._places.items() if _slot(key) in self._parameters}
        parameters: dict[nn.Parameter, None] = {}  # one that layers share once
        for key, shares in trained.items():
            for gradient, share in zip(getattr(self, _slot(key)).grad.unbind(), shares, strict=True):
                for parameter in (module._parameters[leaf] for module, leaf in share):
                    parameter.grad, parameters[parameter] = gradient, None
        given = gradients(parameters)
        try:
            yield
        finally:
            put_back(given)
            for parameter in given:
                parameter.grad = None


def _places(layers: Mapping[str, nn.Module]) -> dict[str, Place]:
    """Name of each parameter and buffer, ``<site path>.<name>`` -> where it is."""
    return {
        ".".join(part for part in (path, inside, leaf) if part): (module, leaf)
        for path, layer in layers.items()
        for inside, module in layer.named_modules()
        for leaf, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    }


def _slot(key: str) -> str:
    """A tensor's name as a module may have it."""
    return key.replace(".", "/")
