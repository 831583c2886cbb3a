"""What a method is to the rest of the project: a dataclass of hyperparameters with a few optional hooks.

This file and ``registry.py`` import no torch, so that ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from variants.errors import VariantError
from variants.outside.values import plain

if TYPE_CHECKING:
    import torch
    from torch import nn

    from variants.layer import AdapterLayer
    from variants.sites.site import Site
    from variants.training.batches import Batches


METHODS = Path(__file__).parent / "methods"
"""The folder of this package's methods: each is a file of its name."""


@dataclass
class BaseVariant:
    """A way to fine-tune: pure configuration, no tensors. State lives in the buffers of its layers.

    Subclass :class:`Variant` for a method that puts a layer on the model's linear maps, and this class
    for one that does not. Every hook has an empty default.
    """

    name: ClassVar[str] = ""
    """Name in tables, recipes and files: the registered one (:func:`variants.register`), else made of the class's. It
    is not inherited, and an outside class cannot have that of a method of this package."""
    layer: ClassVar[type | None] = None  # an AdapterLayer
    """What one site learns; a method that builds it, where a variant's sites are of several kinds."""
    identity_at_start: ClassVar[bool] = True
    """The adapted model computes what the base model does until the first step."""
    mergeable: ClassVar[bool] = True
    """The trained layers can be folded into the base weights."""
    stackable: ClassVar[bool] = True
    """Several seeds of it can be trained as stacked tensors on one base (``variants.adapters.stack``)."""
    subtract_initial: ClassVar[bool] = False
    """The initial delta is taken off the base weight at attach (PiSSA, OLoRA: their delta is not zero)."""

    size: ClassVar[str] = ""
    """The option that decides how many parameters train, such as r; a budget sets it."""

    def __post_init__(self) -> None:
        size = getattr(self, self.size, 1) if self.size else 1
        if isinstance(size, int) and size < 1:
            raise VariantError(f"{self.size} must be at least 1, not {size}")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        options = {key for key, kind in vars(cls).get("__annotations__", {}).items() if "ClassVar" not in str(kind)}
        if taken := sorted(options & _INTERFACE):
            raise VariantError(f"{cls.__name__}: {taken[0]!r} cannot be an option, as every variant has one: rename it")
        if "name" not in vars(cls):
            cls.name = name_of(cls)
        elif not is_built_in(cls) and _has_file(cls.name):
            raise VariantError(f"{cls.__name__}.name is {cls.name!r}, a method of this project: choose another name")
        for hook in _IN_EVERY_STEP:
            try:
                inspect.signature(getattr(cls, hook)).bind(None, [], 1, 1)
            except TypeError:
                raise VariantError(f"{cls.__name__}.{hook} must take (self, layers, step, total_steps)") from None

    def sites(self, model: nn.Module) -> list[Site]:
        """The places of ``model`` that get a layer of their own.

        Raises:
            VariantError: there is a layer and nothing says where it sits.
        """
        if self.layer is not None:
            raise VariantError(
                f"{type(self).__name__} has a layer and no sites for it: subclass variants.Variant, whose target says "
                "where layers sit, or write sites(model)"
            )
        return []

    def sized(self, size: int) -> BaseVariant:
        """The same with another size; more of it is more parameters."""
        return dataclasses.replace(self, **{self.size: size})

    def shared(self, sites: Sequence[Site], seed: int) -> dict[str, Any]:
        """Keyword arguments that every layer is built with (VeRA's bank). ``seed`` is the run's seed."""
        return {}

    def trainable(self, model: nn.Module) -> Iterable[str]:
        """Names of the base parameters that train in place (BitFit, full fine-tuning)."""
        return ()

    def attach(self, model: nn.Module) -> None:
        """Change the model beyond layers on sites. Called once, after freezing; nothing undoes it."""

    def init_from_data(self, model: nn.Module, batches: Batches) -> None:
        """Set initial values from a few training batches, before the first step.

        The batches are iterated over, or asked for what goes into each site (``batches.inputs()``) or for the gradient
        of each base weight (``batches.gradients()``); ``batches.layers`` are the layers. Where ``subtract_initial``
        holds, the first delta is that of the values set here.
        """

    def penalty(self, layers: Sequence[AdapterLayer], step: torch.Tensor, total_steps: int) -> torch.Tensor | None:
        """A scalar added to the loss of every training batch, or None; its mean over a step's batches and processes
        counts.

        It is part of what a CUDA graph repeats: tensor code without a branch on ``step``, a whole number () on the
        layers' device; ``step / total_steps`` is the share of training that is over with this step.
        """

    def before_step(self, layers: Sequence[AdapterLayer], step: int, total_steps: int) -> None:
        """Called before optimizer step ``step``: gradients are ready, averaged over processes and not clipped yet.

        They are changed in place or replaced, ``p.grad = ...``; None counts as zeros. fp16's may be scaled.
        """

    def after_step(self, layers: Sequence[AdapterLayer], step: int, total_steps: int) -> Iterable[nn.Parameter] | None:
        """Called after optimizer step ``step`` (1, 2, ... ``total_steps``), gradients still in place.

        Returns:
            Parameters whose optimizer state (moments) starts anew, as after ReLoRA's restarts; None for none.
        """

    def optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer | None:
        """An optimizer of the method's own over the groups, each with ``lr`` and ``weight_decay``; None: AdamW."""

    def param_groups(self, layers: Sequence[AdapterLayer], lr: float) -> list[dict[str, Any]]:
        """Optimizer groups of the layers' parameters, every one in one group; each may carry its own ``lr`` (LoRA+),
        and one without learns at ``lr``."""
        trained = {id(p): p for layer in layers for p in layer.parameters() if p.requires_grad}  # a shared one once
        return [{"params": list(trained.values()), "lr": lr}]

    def metrics(self, layers: Sequence[AdapterLayer]) -> dict[str, float]:
        """Figures about the method's state for dashboards and results (AdaLoRA's ranks)."""
        return {}

    def options(self) -> dict[str, Any]:
        """The hyperparameters as plain data, from which ``variants.outside.options.build`` makes the variant again.

        Raises:
            VariantError: one is of a kind that no file can hold.
        """
        name = type(self).__name__
        return {f.name: plain(getattr(self, f.name), f"{name}.{f.name}") for f in dataclasses.fields(self) if f.init}


_IN_EVERY_STEP = ("penalty", "before_step", "after_step")
"""Hooks that are called with the layers, the step and how many steps there are."""
_INTERFACE = {name for name in vars(BaseVariant) if not name.startswith("_")} | {"at"}
"""What a variant's options cannot be called."""


def name_of(cls: type) -> str:
    """The name of a class that gives itself none: its own in lower case, marked where it is a built-in method's."""
    name = cls.__name__.lower()
    return f"outside-{name}" if _has_file(name) and not is_built_in(cls) else name


def is_built_in(cls: type) -> bool:
    """Whether a class belongs to this package's methods, or is the outline of one (``variants.listing``)."""
    return cls.__module__.startswith("variants.methods.") or cls.__module__ == "variants.listing"


def _has_file(name: str) -> bool:
    return (METHODS / f"{name}.py").is_file()


@dataclass
class Variant(BaseVariant):
    """A method with a layer on each of the model's targeted linear maps.

    Args:
        target: where the layers sit: a preset (attn-qv, attn, attn+conv, all-linear), roles (q, k, v, o, up, down,
            conv), module names or globs; a comma separates several.
        layers: numbers of the model's blocks that are adapted, such as 0-5,11; empty means all.
        per_layer: options that differ by site, as a map from a glob over site paths to options.
    """

    rank_option: ClassVar[str] = ""
    """The option, if any, that is the rank of a sum such as BA. It may exceed the smaller side of some maps, if the
    class that brings the layer says so itself: a layer that takes r singular vectors of the weight has no more."""

    target: str = "attn-qv"
    layers: str = ""
    per_layer: dict[str, dict[str, Any]] = field(default_factory=dict)

    def sites(self, model: nn.Module) -> list[Site]:
        """The linear maps that ``target`` and ``layers`` name."""
        from variants.sites.targets import find_sites

        return find_sites(model, self.target, self.layers)

    def check_sites(self, sites: Sequence[Site]) -> None:
        """Whether the options fit the sites that were found.

        Raises:
            VariantError: a pattern of ``per_layer`` is of no site (the nearest is named), or a rank is too high.
        """
        from variants.sites.misses import matches

        paths = [site.path for site in sites]
        for pattern in self.per_layer:
            if not any(matches(path, pattern) for path in paths):
                near = difflib.get_close_matches(pattern.strip("*."), paths, n=1, cutoff=0) or ["none"]
                raise VariantError(
                    f"per_layer={pattern[:100]!r} matches none of the {len(paths)} sites: it is a glob over names, "
                    f"such as *.1.*, and the nearest is {near[0]}"
                )
        if self.rank_option:
            from variants.layer import check_ranks

            brings_layer = next(cls for cls in type(self).__mro__ if "layer" in vars(cls))
            ranks = [(getattr(self.at(site.path), self.rank_option), site) for site in sites]
            check_ranks(ranks, free="rank_option" in vars(brings_layer))

    def at(self, path: str) -> Variant:
        """This configuration as it holds at the site ``path``: the last matching ``per_layer`` entry wins.

        Raises:
            VariantError: an entry has an option that the variant lacks.
        """
        from variants.sites.misses import matches

        changes: dict[str, Any] = {}
        for pattern, options in self.per_layer.items():
            if matches(path, pattern):
                changes |= options
        known = {f.name for f in dataclasses.fields(self)} - {f.name for f in dataclasses.fields(Variant)}
        if unknown := set(changes) - known:
            raise VariantError(
                f"per_layer names {sorted(unknown)[0]!r}, which {self.name} does not have at single sites"
            )
        return dataclasses.replace(self, **changes) if changes else self
