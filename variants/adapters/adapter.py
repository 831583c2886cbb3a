"""One adapter: its layers and what it trains in place, and how tensors get in and out of it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from variants.adapters.late import Late, reading
from variants.errors import VariantError, first_line
from variants.layer import AdapterLayer, seeded
from variants.outside.places import definition, place
from variants.sites.kinds.few_bits import is_packed
from variants.sites.misses import nearest
from variants.sites.site import Site
from variants.sites.targets import in_one_line, left_out
from variants.training.answers import completed_groups
from variants.variant import BaseVariant

log = logging.getLogger(__name__)
INITIAL = "initial::"
"""Before the names of an adapter's initial tensors in its file, where their delta is off the base."""


@dataclass
class Adapter:
    """One adapter of possibly several on the same base.

    Attributes:
        late: what it keeps to follow base weights that come behind attaching.
        layers: site path -> what is learnt there.
        in_place: names of the model's own parameters that it trains: the head, and what the variant asks for.
        values: their values while another adapter is active.
        frozen: those of them that somebody had frozen when another became active.
        initial: initial tensors of a variant whose first delta is taken off the base.
        first: site path -> that delta.
    """

    variant: BaseVariant
    seed: int
    late: Late
    layers: dict[str, AdapterLayer] = field(default_factory=dict)
    in_place: list[str] = field(default_factory=list)
    values: dict[str, Tensor] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)
    initial: dict[str, Tensor] = field(default_factory=dict)
    first: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def on(
        cls, model: nn.Module, head: Sequence[str], variant: BaseVariant, seed: int, initial: dict[str, Tensor] | None
    ) -> Adapter:
        """A new adapter for a model, not active yet; the model's parameters are frozen.

        Args:
            head: names of the task head's parameters, which train in place and are not adapted.
            initial: initial tensors from a file, for variants that take their first delta off the base.

        Raises:
            VariantError: the model lacks a parameter of ``head`` or of the variant, or the variant does not fit it.
        """
        known = dict(model.named_parameters())
        if unknown := [name for name in head if name not in known]:
            near = nearest(unknown[0], known)
            raise VariantError(f"head names {unknown[0]!r}, which the model does not have; the nearest are {near}")
        for parameter in known.values():
            parameter.requires_grad_(False)
        sites = [site for site in variant.sites(model) if f"{site.module_path}.weight" not in head]
        if hasattr(variant, "check_sites"):
            variant.check_sites(sites)
        if sites and log.isEnabledFor(logging.INFO) and (left := left_out(model, getattr(variant, "target", ""))):
            log.info("%s leaves out: %s", variant.target, in_one_line(left))
        layers: dict[str, AdapterLayer] = {}
        adapter = cls(variant, seed, Late(partial(_build, variant, seed, sites), layers), layers)
        for layer, derived in _build(variant, seed, sites):
            layers[layer.site.path] = layer
            adapter.late.note(layer.site.path, layer, derived)
        adapter.in_place = list(dict.fromkeys([*head, *variant.trainable(model)]))
        if unknown := [n for n in adapter.in_place if n not in known]:
            raise VariantError(f"{variant.name} trains {unknown[0]!r}, which the model does not have")
        if variant.subtract_initial:
            adapter.subtract(initial)
        return adapter

    @torch.no_grad()
    def subtract(self, initial: dict[str, Tensor] | None = None) -> None:
        """Note the delta of the values that there are now, or of ``initial`` ones, as the one to take off the base."""
        for path, layer in self.layers.items():
            if is_packed(layer.site.module._parameters.get("weight")):
                raise VariantError(
                    f"{self.variant.name} takes its first update off {path}, which is in few bits already: load the "
                    "model in 16 or 32 bits, attach, and quantise then"
                )
        if initial:
            copy_tensors(self, initial)
        self.initial = {key: t.detach().clone() for key, t in self.tensors().items()}
        self.first = {path: layer.delta_weight().detach().clone() for path, layer in self.layers.items()}

    def reduced(self, path: str) -> Tensor:
        """The base weight of a site, as it is now, without the first delta there."""
        weight = self.layers[path].site.weight()
        delta = self.first[path].to(weight.device)
        return (weight.to(delta.dtype) - delta).to(weight.dtype)

    def tensors(self, trimmed: bool = False) -> dict[str, Tensor]:
        """The layers' parameters and persistent buffers under ``<site path>.<name>``; a shared one once.

        Args:
            trimmed: only what an adapter file holds of them (:meth:`AdapterLayer.trimmed`).
        """
        self.late.follow()
        seen: set[int] = set()
        tensors = {}
        for path, layer in self.layers.items():
            for key, tensor in (layer.trimmed() if trimmed else layer.state_dict(keep_vars=True)).items():
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    tensors[f"{path}.{key}"] = tensor
        return tensors

    def completed(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a file, which may be trimmed, as those of :meth:`tensors`."""
        complete = dict(tensors)
        for path, layer in self.layers.items():
            own = {name: tensors[f"{path}.{name}"] for name in layer.state_dict() if f"{path}.{name}" in tensors}
            complete |= {f"{path}.{name}": tensor for name, tensor in layer.completed(own).items()}
        return complete

    def param_groups(
        self, parameters: Mapping[str, nn.Parameter], head: set[str], lr: float, head_lr: float | None, decay: float
    ) -> list[dict[str, Any]]:
        """Optimizer groups: the variant's own, then what trains in place; each has a ``name`` (adapter, head).

        Biases and norms that train in place are spared the weight decay, as everywhere in the field.

        Args:
            parameters: the model's, by name.
            head: names of the task head's, which learn at ``head_lr``, or at ``lr`` where that is None.
            decay: weight decay.
        """
        trained = {k: t for k, t in self.tensors().items() if isinstance(t, nn.Parameter) and t.requires_grad}
        groups = self.variant.param_groups(list(self.layers.values()), lr) if self.layers else []
        groups = completed_groups(self.variant, groups, trained, {"lr": lr, "weight_decay": decay, "name": "adapter"})
        for name, rate, keys in (
            ("adapter", lr, [key for key in self.in_place if key not in head]),
            ("head", lr if head_lr is None else head_lr, [key for key in self.in_place if key in head]),
        ):
            for own, wide in ((decay, True), (0.0, False)):
                chosen = [parameters[key] for key in keys if (parameters[key].ndim > 1) == wide]
                groups.append({"params": chosen, "lr": rate, "weight_decay": own, "name": name})
        return [group for group in groups if group["params"]]


def _build(variant: BaseVariant, seed: int, sites: Sequence[Site]) -> Iterator[tuple[AdapterLayer, bool]]:
    """The layer of each site with its initial values, and whether these follow a base weight that is read for them."""
    # what is made on the CPU and moved to the meta device is no longer shared
    device = torch.device("meta") if sites and sites[0].device.type == "meta" else nullcontext()
    with device:
        shared = variant.shared(sites, seed) if sites else {}
    for site in sites:
        config = variant.at(site.path) if hasattr(variant, "at") else variant
        try:
            with device, reading(site) as found:
                layer = variant.layer(site, config, seeded(seed, site.path), **shared)
        except VariantError:
            raise
        except Exception as error:
            where = place(error) or f"{definition(variant.layer)}: "
            raise VariantError(f"{where}no layer for {site.path}: {first_line(error)}") from error
        if hasattr(layer, "pre") and not site.is_whole:
            raise VariantError(f"{variant.name} changes its input and cannot sit on a slice such as {site.path}")
        yield layer.at_site(), bool(found) and not variant.subtract_initial


def copy_tensors(adapter: Adapter, tensors: dict[str, Tensor]) -> None:
    """Copy ``tensors`` into the adapter's layers; no other, and every one that outputs depend on.

    Raises:
        VariantError: one is missing, unknown, or of another shape or kind of number.
    """
    own = adapter.tensors()
    spared = {f"{path}.{name}" for path, layer in adapter.layers.items() for name in layer.training_only}
    if missing := [key for key in own if key not in tensors and key not in spared]:
        raise VariantError(f"the file lacks {missing[0]}, which {adapter.variant.name} has in this model")
    tensors = adapter.completed(tensors)
    if unknown := [key for key in tensors if key not in own]:
        raise VariantError(f"the file has {unknown[0]}, which {adapter.variant.name} does not have in this model")
    resizable = {
        f"{path}.{name}": dim for path, layer in adapter.layers.items() for name, dim in layer.resizable.items()
    }
    for key, tensor in tensors.items():
        check_fit(key, tensor, own[key], resizable.get(key))
        if tensor.shape == own[key].shape:
            own[key].data.copy_(tensor)
        else:
            own[key].data = tensor.to(own[key]).clone()


def check_fit(key: str, found: Tensor, expected: Tensor, resizable: int | None = None) -> None:
    """Whether a tensor of a file fits the model's; dimension `resizable` may differ. Raises VariantError."""
    shapes = [[n for dim, n in enumerate(tensor.shape) if dim != resizable] for tensor in (found, expected)]
    if found.ndim != expected.ndim or shapes[0] != shapes[1]:
        raise VariantError(f"{key} is {tuple(found.shape)} in the file and {tuple(expected.shape)} in the model")
    if found.is_floating_point() != expected.is_floating_point():
        raise VariantError(f"{key} is {found.dtype} in the file and {expected.dtype} in the model")


def refuse_unknown(adapters: Mapping[str, Adapter], names: Iterable[str]) -> None:
    """Raise VariantError for the first of ``names`` that is no adapter's, with those that there are."""
    if unknown := [name for name in names if name not in adapters]:
        raise VariantError(f"no adapter {unknown[0]!r}; there are {', '.join(adapters) or 'none'}")


def refuse_resized(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Raise VariantError where values of the model's own parameters, put aside for a while, fit them no more."""
    parameters = dict(model.named_parameters()) if kept else {}
    for key, value in kept.items():
        now = tuple(parameters[key].shape) if key in parameters else "gone or tied"
        if now != tuple(value.shape):
            raise VariantError(
                f"{key} is {now} in the model, and {tuple(value.shape)} as it was put aside: adapters cannot change "
                "places any more; save the active one, and load all on a model of the new size"
            )
