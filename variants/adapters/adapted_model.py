"""The handle of a model with adapters on it: attach, switch, merge, count, and what a trainer needs."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from variants.adapters import hooks
from variants.adapters.adapter import Adapter, check_fit, copy_tensors
from variants.adapters.folding import fold, refuse_tied
from variants.errors import VariantError
from variants.layer import AdapterLayer, full_precision
from variants.sites.architectures import head_parameters
from variants.variant import BaseVariant
from variants.wrappers import unwrapped


def attach(
    model: nn.Module, variant: BaseVariant, seed: int = 0, *, head: Sequence[str] | None = None, name: str = "default"
) -> AdaptedModel:
    """Freeze ``model``, put the variant's layers on it and leave its task head trainable.

    Args:
        model: any module; for transformers models targets and head are known by architecture. One that is wrapped
            (torch.compile, DataParallel, Fabric) is adapted inside: the wrapper computes with the adapter, and the
            handle's ``model`` is what is inside.
        variant: the method and its hyperparameters.
        seed: of the initial values, which depend on it and on each layer's path alone.
        head: names of the head's parameters, where they cannot be known by architecture.
        name: under which this adapter is kept beside others (:meth:`AdaptedModel.add`).

    Raises:
        VariantError: the model carries adapters already, or the variant does not fit it.
    """
    model = unwrapped(model)
    if hooks.is_adapted(model):
        raise VariantError("the model carries adapters already: use the handle's add(), or attach to a fresh model")
    adapted = AdaptedModel(model, head_parameters(model) if head is None else list(head))
    adapted.add(name, variant, seed)
    return adapted


class AdaptedModel:
    """A frozen model and its adapters, one of them active. Made by :func:`attach`."""

    def __init__(self, model: nn.Module, head: list[str]) -> None:
        self.model = model
        self.head = head
        self.adapters: dict[str, Adapter] = {}
        self.active: str | None = None
        self._handles: list[tuple[nn.Module, list]] = []
        self._original: dict[str, Tensor] = {}  # base values that an active adapter has changed in place
        self._kept: dict[str, Any] = {}  # base weights of sites that it takes its first delta off
        self._unmerged: dict[str, Any] = {}
        if hasattr(model, "save_pretrained"):
            model.save_pretrained = types.MethodType(hooks.save_pretrained, model)

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
        previous = self.active
        self.deactivate()
        try:
            self.adapters[name] = Adapter.on(self.model, self.head, variant, seed, initial)
        except Exception:
            if previous is not None:
                self.switch(previous)
            raise
        variant.attach(self.model)
        self.switch(name)

    @contextmanager
    def adding(
        self, name: str, variant: BaseVariant, seed: int = 0, initial: dict[str, Tensor] | None = None
    ) -> Iterator[None]:
        """``with`` this, :meth:`add`; an error inside takes the adapter off and brings the previous one back."""
        previous = self.active
        self.add(name, variant, seed, initial)
        try:
            yield
        except Exception:
            self.delete(name)
            if previous is not None:
                self.switch(previous)
            raise

    def switch(self, name: str) -> None:
        """Make ``name`` the active adapter. The base is not copied."""
        if name not in self.adapters:
            raise VariantError(f"no adapter {name!r}; there are {', '.join(self.adapters) or 'none'}")
        self.deactivate()
        adapter = self.adapters[name]
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for key in adapter.in_place:
                self._original[key] = parameters[key].detach().clone()
                if key in adapter.values:
                    parameters[key].copy_(adapter.values.pop(key))
                parameters[key].requires_grad_(True)
            for path, weight in adapter.residual.items():
                site = adapter.layers[path].site
                self._kept[path] = site.kept(bias=False)
                site.write(weight, None)
        self._handles = hooks.hook_all(layer.to(layer.site.device) for layer in adapter.layers.values())
        self.active = name

    def deactivate(self) -> None:
        """Leave the plain base model, with the head it came with; :meth:`switch` brings an adapter back."""
        if self.active is None:
            return
        self.unmerge()
        adapter = self.adapter
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for key in adapter.in_place:
                adapter.values[key] = parameters[key].detach().clone()
                parameters[key].copy_(self._original.pop(key))
                parameters[key].requires_grad_(False)
            for path in adapter.residual:
                adapter.layers[path].site.restore(self._kept.pop(path))
        for module, handles in self._handles:
            hooks.unhook(module, handles)
        self._handles.clear()
        self.active = None

    def delete(self, name: str) -> None:
        """Forget an adapter; if it is the active one, the plain base model is left."""
        if name not in self.adapters:
            raise VariantError(f"no adapter {name!r}; there are {', '.join(self.adapters) or 'none'}")
        if name == self.active:
            self.deactivate()
        del self.adapters[name]

    def combine(self, weights: Mapping[str, float], name: str, rank: int | None = None) -> float:
        """Add ``name``, the weighted sum of other adapters as one LoRA: see `variants.adapters.combine`."""
        from variants.adapters.combine import combine

        return combine(self, weights, name, rank)

    def mixed(self, rows: Sequence[str | None]) -> AbstractContextManager[nn.Module]:
        """``with`` this, row i of a batch is computed by adapter ``rows[i]``: see `variants.adapters.mixed_batch`."""
        from variants.adapters.mixed_batch import mixed

        return mixed(self, rows)

    def enable(self, on: bool = True) -> None:
        """Turn the active adapter's layers on or off; what trains in place stays as it is."""
        for module, _ in self._handles:
            module.adapter.enabled = on and not self._unmerged
        if self.active is not None and not self._unmerged:
            for path, weight in self.adapter.residual.items():
                site = self.adapter.layers[path].site
                if on:
                    site.write(weight, None)
                else:
                    site.restore(self._kept[path])

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """``with adapted.disabled():`` the base model's own outputs, the head apart."""
        merged = bool(self._unmerged)
        self.unmerge()
        self.enable(False)
        try:
            yield
        finally:
            self.enable(True)
            if merged:
                self.merge()

    @torch.no_grad()
    def merge(self) -> float:
        """Fold the active adapter into the base weights, in at least fp32 and on a saved copy.

        Returns:
            The largest absolute difference, over all sites and 32 random inputs each, between the merged map and
            base plus adapter, both in at least fp32.

        Raises:
            VariantError: the variant cannot be merged, or a weight is shared with another module.
        """
        if self._unmerged or not self.adapter.layers:
            return 0.0
        if not self.variant.mergeable:
            raise VariantError(f"{self.variant.name} cannot be merged: it is no linear map of its input")
        refuse_tied(self.model, self.layers)
        self.enable(True)
        folded, worst = fold(self.adapter.layers)
        for path, (weight, bias) in folded.items():
            site = self.adapter.layers[path].site
            self._unmerged[path] = site.kept()
            site.write(weight, bias)
        self.enable(False)
        return worst

    def unmerge(self) -> None:
        """Restore the base weights exactly as they were before :meth:`merge`."""
        for path, kept in self._unmerged.items():
            self.adapter.layers[path].site.restore(kept)
        self._unmerged.clear()
        self.enable(True)

    def trained(self) -> dict[str, nn.Parameter]:
        """Every parameter that the active adapter trains, layers first; names as in its file."""
        parameters = dict(self.model.named_parameters())
        layers = {k: t for k, t in self.adapter.tensors().items() if isinstance(t, nn.Parameter) and t.requires_grad}
        return layers | {key: parameters[key] for key in self.adapter.in_place}

    def count(self) -> dict[str, int]:
        """Trained parameters of adapter and head apart, as the papers count, and all parameters of the model."""
        head = set(self.head)
        sizes = {"adapter": 0, "head": 0}
        for key, parameter in {id(p): (k, p) for k, p in self.trained().items()}.values():
            sizes["head" if key in head else "adapter"] += parameter.numel()
        layers = (p for layer in self.layers for p in layer.parameters())  # in the model, unless they are stacked
        return sizes | {"total": sum({id(p): p.numel() for p in (*self.model.parameters(), *layers)}.values())}

    def param_groups(self, lr: float, head_lr: float | None = None, weight_decay: float = 0.0) -> list[dict]:
        """Optimizer groups: the variant's own, then what trains in place (:meth:`Adapter.param_groups`)."""
        parameters = dict(self.model.named_parameters())
        return self.adapter.param_groups(parameters, set(self.head), lr, head_lr, weight_decay)

    def penalty(self) -> Tensor | None:
        """The variant's addition to the loss, or None; computed in full precision whatever autocast is on."""
        with full_precision(next(self.model.parameters())):
            return self.variant.penalty(self.layers)

    def after_step(self, step: int, total_steps: int) -> None:
        """To be called after each optimizer step, before its gradients are cleared."""
        self.variant.after_step(self.layers, step, total_steps)

    def shrink(self) -> None:
        """Drop for good whatever of the layers no output depends on, such as AdaLoRA's pruned triplets.

        Optimizers made before do not fit the layers any more.
        """
        for layer in self.layers:
            layer.shrink()

    def init_from_data(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """To be called once with a few training batches, before the first step."""
        self.variant.init_from_data(self.model, batches)

    def metrics(self) -> dict[str, float]:
        """The variant's figures about its own state."""
        return self.variant.metrics(self.layers)

    def state_dict(self, trimmed: bool = False) -> dict[str, Tensor]:
        """All that trains, and the layers' persistent state: for a checkpoint or, trimmed, for a file."""
        parameters = dict(self.model.named_parameters())
        values = {key: self.adapter.values.get(key, parameters[key]) for key in self.adapter.in_place}
        return {k: t.detach() for k, t in (self.adapter.tensors(trimmed) | values).items()}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Copy tensors in; names, shapes and dtypes must be those of :meth:`state_dict`.

        Raises:
            VariantError: the first name that is missing or unknown, or the first tensor that does not fit.
        """
        in_place = {key: tensors[key] for key in self.adapter.in_place if key in tensors}
        if missing := [key for key in self.adapter.in_place if key not in tensors]:
            raise VariantError(f"the file lacks {missing[0]}, which {self.variant.name} trains in this model")
        copy_tensors(self.adapter, {k: t for k, t in tensors.items() if k not in in_place})
        parameters = dict(self.model.named_parameters())
        for key, tensor in in_place.items():
            own = self.adapter.values.get(key, parameters[key])  # as in state_dict
            check_fit(key, tensor, own)
            own.data.copy_(tensor)

    def __repr__(self) -> str:
        counts = self.count() if self.active else {}
        return f"AdaptedModel({', '.join(self.adapters)}; active: {self.active}; {counts})"
