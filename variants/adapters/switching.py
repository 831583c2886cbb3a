"""Which adapter acts on a model, and how: none, one through hooks, or one folded into the base weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from variants.adapters import hooks
from variants.adapters.adapter import Adapter, refuse_resized, refuse_unknown
from variants.adapters.folding import merge_into
from variants.errors import VariantError
from variants.layer import AdapterLayer
from variants.saving import save_plain
from variants.sites.kinds.few_bits import take_over
from variants.variant import BaseVariant


class State(NamedTuple):
    """What of a handle's adapters acts on the model.

    Attributes:
        active: name of the active adapter, if any is.
        on: it acts; so does whichever is switched to.
        merged: it is folded into the base weights.
    """

    active: str | None
    on: bool
    merged: bool


@dataclass(eq=False)
class _Block:
    """A ``with disabled():`` that has begun, and the state that it found."""

    found: State


class Switching:
    """The part of the handle that puts adapters on the model and takes them off.

    Whether adapters act is said by :meth:`enable`, :meth:`disabled` and :meth:`merge` alone: whoever switches leaves it
    as it is.

    Args:
        model: the frozen model.
        head: names of the task head's parameters.
    """

    def __init__(self, model: nn.Module, head: list[str]) -> None:
        self.model = model
        self.head = head
        self.adapters: dict[str, Adapter] = {}
        self.active: str | None = None
        self._on = not getattr(model, "is_stand_in", False)  # which computes nothing, and has no weights to change
        self._blocks: list[_Block] = []
        self._hooked: list[nn.Module] = []
        self._original: dict[str, Tensor] = {}  # base values that an active adapter has changed in place
        self._kept: dict[str, Any] = {}  # base weights of sites that it takes its first delta off
        self._unmerged: dict[str, Any] = {}
        take_over(model)
        save_plain(model)
        model.register_load_state_dict_pre_hook(hooks.refuse_changed)

    @property
    def state(self) -> State:
        """Which adapter is active, whether it acts, and whether it is merged: for :meth:`restore`."""
        return State(self.active, self._on, bool(self._unmerged))

    def restore(self, state: State) -> None:
        """Bring a :attr:`state` back; without its adapter, where that has been deleted meanwhile."""
        if self.active != state.active:
            self.deactivate()
            if state.active in self.adapters:
                self.switch(state.active)
        self._resume(state)

    def _resume(self, state: State) -> None:
        """:meth:`restore`, whichever adapter is active now."""
        if not state.merged:
            self.unmerge()
        self.enable(state.on)
        if state.merged and self.active == state.active:
            self.merge()

    @contextmanager
    def apart(self) -> Iterator[None]:
        """``with`` this, base and adapter are unmerged; what was merged is merged again behind it, as it is then."""
        found = self.state
        self.unmerge()
        try:
            yield
        finally:
            self._resume(found)

    @property
    def adapter(self) -> Adapter:
        """The active adapter."""
        if self.active is None:
            raise VariantError("no adapter is active: switch to one of " + (", ".join(self.adapters) or "(none)"))
        return self.adapters[self.active]

    @property
    def variant(self) -> BaseVariant:
        """The active adapter's method and hyperparameters."""
        return self.adapter.variant

    @property
    def layers(self) -> list[AdapterLayer]:
        """The active adapter's layers, in the model's order."""
        return list(self.adapter.layers.values())

    def add(self, name: str, variant: BaseVariant, seed: int = 0, initial: dict[str, Tensor] | None = None) -> None:
        """Build another adapter on the same base and make it the active one.

        Args:
            initial: initial tensors from a file, for variants that take their first delta off the base.
        """
        if name in self.adapters:
            raise VariantError(f"there is an adapter {name!r} already; delete it first or choose another name")
        with self._or_as_found():
            self.deactivate()
            self.adapters[name] = Adapter.on(self.model, self.head, variant, seed, initial)
        variant.attach(self.model)
        self.switch(name)

    @contextmanager
    def adding(
        self, name: str, variant: BaseVariant, seed: int = 0, initial: dict[str, Tensor] | None = None
    ) -> Iterator[None]:
        """``with`` this, :meth:`add`; an error inside takes the adapter off and brings the previous one back."""
        with self._or_as_found():
            self.add(name, variant, seed, initial)
            try:
                yield
            except Exception:
                self.delete(name)
                raise

    @contextmanager
    def _or_as_found(self) -> Iterator[None]:
        """``with`` this, an error inside brings back the state that was found, and which parameters trained."""
        found, trains = self.state, [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        try:
            yield
        except Exception:
            self.restore(found)
            for parameter, own in trains:
                parameter.requires_grad_(own)
            raise

    def switch(self, name: str) -> None:
        """Make ``name`` the active adapter, unmerged. The base is not copied, and layers that are off stay off."""
        refuse_unknown(self.adapters, [name])
        adapter = self.adapters[name]
        refuse_resized(self.model, adapter.values)
        self.deactivate()
        adapter.late.follow()
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for key in adapter.in_place:
                self._original[key] = parameters[key].detach().clone()
                if key in adapter.values:
                    _fill(parameters[key], adapter.values.pop(key))
                parameters[key].requires_grad_(key not in adapter.frozen)
        self._hooked = hooks.hook_all((layer.at_site() for layer in adapter.layers.values()), adapter.late)
        self.active = name
        self._act(self._on)

    def _act(self, on: bool) -> None:
        """Let the active adapter's layers act, on base weights without the update that they begin with."""
        for module in self._hooked:
            module.adapter.enabled = on
        sites = [(path, self.adapter.layers[path].site) for path in self.adapter.first]
        for path, site in sites if on else reversed(sites):
            if on:
                self._kept[path] = site.kept(bias=False)
                if not site.pack_again():  # else what is left without the update has been quantised
                    site.write(self.adapter.reduced(path), None)
            elif path in self._kept:
                site.restore(self._kept.pop(path))
            site.module.adapter.reduced = on

    def deactivate(self) -> None:
        """Leave the plain base model, with the head it came with; :meth:`switch` brings an adapter back."""
        if self.active is None:
            return
        refuse_resized(self.model, self._original)
        self.unmerge()
        adapter = self.adapter
        parameters = dict(self.model.named_parameters())
        adapter.frozen = {key for key in adapter.in_place if not parameters[key].requires_grad}
        with torch.no_grad():
            for key in adapter.in_place:
                adapter.values[key] = parameters[key].detach().clone()
                _fill(parameters[key], self._original.pop(key))
                parameters[key].requires_grad_(False)
            self._act(False)
        for module in self._hooked:
            hooks.unhook(module)
        self._hooked.clear()
        self.active = None

    def uncalled(self) -> list[str]:
        """Paths of the active adapter's layers that no pass has called since it was switched to.

        Such a layer computes nothing and gets no gradient: the model reads the module's weight by itself (a fused
        attention, for one), or sends no token through it (an expert that a router has passed over so far).
        """
        return hooks.uncalled(self.layers) if self.active is not None else []

    def delete(self, name: str) -> None:
        """Forget an adapter; if it is the active one, the plain base model is left."""
        refuse_unknown(self.adapters, [name])
        if name == self.active:
            self.deactivate()
        del self.adapters[name]

    def enable(self, on: bool = True) -> None:
        """Turn the active adapter's layers on or off, unmerged first; what trains in place stays as it is."""
        if not on:
            self.unmerge()
        if on != self._on:
            self._on = on
            if self.active is not None:
                self._act(on)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """``with adapted.disabled():`` the base model's own outputs, the head apart.

        At the end the state that was found is back: off, on or merged. Blocks may be nested, and of several that end in
        another order, as in generators, the last to end brings it back.
        """
        block = _Block(self.state)
        self._blocks.append(block)
        self.enable(False)
        try:
            yield
        finally:
            later = self._blocks[self._blocks.index(block) + 1 :]
            self._blocks.remove(block)
            if later:  # it found what this block has made
                later[0].found = block.found
            else:
                self._resume(block.found)

    @torch.no_grad()
    def merge(self) -> float:
        """Fold the active adapter into the base weights, in at least fp32 and on a saved copy.

        Returns:
            The largest absolute difference, over all sites and 32 random inputs each, between the merged map and
            base plus adapter, both in at least fp32.

        Raises:
            VariantError: the variant cannot be merged, a weight is shared with another module, or a module's outputs
                would be others than before (:func:`merge_into`); then nothing is merged.
        """
        if self._unmerged or not self.adapter.layers:
            return 0.0
        if not self.variant.mergeable:
            raise VariantError(f"{self.variant.name} cannot be merged: it is no linear map of its input")
        found = self.state
        self.enable(True)
        self.adapter.late.follow()
        try:
            with hooks.unnoticed(self._hooked):  # it calls each module to compare
                self._unmerged, worst = merge_into(self.model, self.adapter.layers)
        except Exception:
            self._resume(found)
            raise
        self._fold(True)
        return worst

    def unmerge(self) -> None:
        """Restore the base weights exactly as they were before :meth:`merge`; the layers act beside them again."""
        if not self._unmerged:
            return
        for path, kept in reversed(self._unmerged.items()):
            self.adapter.layers[path].site.restore(kept)
        self._unmerged.clear()
        self._fold(False)

    def _fold(self, merged: bool) -> None:
        """Note at the modules whether their weights hold the layers, which then do not act beside them."""
        for module in self._hooked:
            module.adapter.enabled, module.adapter.merged = not merged, merged


def _fill(parameter: nn.Parameter, value: Tensor) -> None:
    """Copy a value in, unless it was put aside before the model had memory: what has been loaded since is its value."""
    if not value.is_meta:
        parameter.copy_(value)
