"""Accelerated passes: everything of this folder, put in place for a while and taken away again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from torch import Tensor, nn

from variants.acceleration.activations import activations
from variants.acceleration.basics.fast_paths import FORWARDS, PREPARATIONS, update_overrides
from variants.acceleration.basics.found import found_of
from variants.acceleration.basics.overrides import Override, overriding
from variants.acceleration.basics.policy import checkpointed, few_kernels, for_graph, is_for_graph, plain
from variants.acceleration.basics.torch_private import recomputed_in
from variants.acceleration.casts import lowered, lowered_stack
from variants.acceleration.decoders import kernels
from variants.acceleration.methods import adalora, bottlenecks, dora, lora_pro  # noqa: F401 (they register their fast paths)
from variants.acceleration.products import postponed, shared_input, sources, updated_maps
from variants.acceleration.products.alike import made_together
from variants.acceleration.products.convolutions import convolved
from variants.acceleration.products.low_rank import add_products, added, product
from variants.acceleration.products.merged_weight import merged_weights
from variants.acceleration.products.shared_input import shared_inputs
from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.adapter import Adapter
from variants.adapters.hooks import SiteAdapters
from variants.adapters.stack import Stack
from variants.layer import AdapterLayer


@contextmanager
def accelerated(
    handle: AdaptedModel | Stack, exclude: Iterable[nn.Module] = (), also: Iterable[Override] = ()
) -> Iterator[None]:
    """``with`` this, a forward pass, and its backward pass if you wish: the same to rounding, in fewer operations.

    Trained tensors must not change inside: copies of them in the base's precision are made at the start.

    Args:
        handle: of the adapted model; nothing of it is changed for good.
        exclude: maps to queries, keys or values that read another tensor than the other two of their attention.
        also: what else is replaced, in the pass and when gradient checkpointing goes through a part of it again.
    """
    stacked = isinstance(handle, Stack)
    if not stacked:
        handle.adapter.late.follow()
    copies, rounded = (lowered_stack(handle), set()) if stacked else lowered(handle.layers)
    merged = [] if stacked else list(merged_weights(handle.layers))
    maps = [
        *_frozen_maps(handle, tuple(exclude)),
        *kernels(handle),
        *activations(handle),
        *copies,
        *_adapters(handle, rounded),
        *merged,
        *also,
    ]
    once = _Pass()
    with once.entered(), overriding(maps):
        prepared = [] if stacked else [*_prepared(handle.layers), *made_together(handle)]  # they read the copies
        once.overrides = maps + prepared
        with overriding(prepared), recomputed_in(checkpointed, once.again):
            yield


class _Pass:
    """An accelerated pass, which gradient checkpointing may go through again in a backward pass behind the block's end.

    What is recomputed must be computed as it was: the tensors that were kept for gradients have to be there again.
    """

    def __init__(self) -> None:
        self.overrides: list[Override] = []
        self._depth = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """``with`` this, overrides are in place; notes of tensors end with it."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                for notes in (postponed, shared_input, sources, updated_maps):
                    notes.forget()

    def again(self) -> Callable[[], AbstractContextManager[None]]:
        """What makes a block in which everything is computed as it is now."""
        return partial(self._again, is_for_graph())

    @contextmanager
    def _again(self, graph: bool) -> Iterator[None]:
        ended = not self._depth
        with self.entered(), for_graph(graph), checkpointed(), overriding(self.overrides if ended else []):
            yield


@contextmanager
def accelerated_updates(handle: AdaptedModel | Stack) -> Iterator[None]:
    """``with`` this, what a variant does between passes: ``handle.penalty``, ``before_step`` and ``after_step``."""
    with overriding(update_overrides(handle.variant)):
        yield


def _frozen_maps(handle: AdaptedModel | Stack, exclude: tuple[nn.Module, ...]) -> list[Override]:
    """Overrides of frozen maps that read one tensor, found once for each adapter and state of their weights."""
    adapter = None if isinstance(handle, Stack) else handle.adapter
    found = found_of(handle)
    known: _Maps | None = found.get("maps")
    if known is None or known.adapter is not adapter or known.exclude != exclude or known.state != known.now():
        adapted = (layer.site.module for layer in handle.layers)
        overrides = list(shared_inputs(handle.model, adapted, exclude))
        known = found["maps"] = _Maps(adapter, exclude, overrides)
    return known.in_force()


class _Maps:
    """Overrides of frozen maps and norms, and what they have been found for.

    Attributes:
        adapter: of the handle.
        exclude: the excluded maps.
        state: what was asked of the modules then (:meth:`now`).
    """

    def __init__(self, adapter: Adapter | None, exclude: tuple[nn.Module, ...], overrides: list[Override]) -> None:
        self.adapter, self.exclude, self.overrides = adapter, exclude, overrides
        self.state = self.now()

    def now(self) -> list:
        """Whether the modules' parameters train, in which precision and where they are."""
        parameters = (p for module, _, _ in self.overrides for p in module._parameters.values() if p is not None)
        return [(p.requires_grad, p.dtype, p.device) for p in parameters]

    def in_force(self) -> list[Override]:
        """Those of modules whose forward function nobody has replaced meanwhile."""
        return [override for override in self.overrides if "forward" not in vars(override[0])]


def _adapters(handle: AdaptedModel | Stack, rounded: set[nn.Module]) -> Iterator[Override]:
    """Overrides of what the hooks call."""
    for adapters in dict.fromkeys(layer.site.module.adapter for layer in handle.layers):
        yield adapters, "compute", partial(_compute, adapters)
        if adapters in rounded:  # nothing is in another precision: autocast has nothing to do
            yield adapters, "forward", partial(_compute, adapters)


def _compute(adapters: SiteAdapters, x: Tensor, y: Tensor) -> Tensor:
    """As :meth:`SiteAdapters.compute`."""
    layers = adapters.in_order
    if updated_maps.is_updated(y) and all(layer.adds_low_rank for layer in layers):
        return y
    if adapters.window is not None:
        fits = adapters.whole and isinstance(layers[0], AdapterLayer) and layers[0].adds_low_rank
        return convolved(layers[0], x, y) if fits else SiteAdapters.compute(adapters, x, y, _forward)
    if adapters.cut.groups == 1 and (few_kernels(y) or (plain(y) and not adapters.whole)):  # of slices a copy is saved
        firsts = [getattr(layer, "first", layer) for layer in layers]  # of stacked layers
        if all(first.adds_low_rank and "outer" not in first.low_rank_factors for first in firsts):
            return add_products(y, adapters.cut.spans, [product(layer, layer.low_rank(), x) for layer in layers])
    return SiteAdapters.compute(adapters, x, y, _forward)


def _forward(layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A layer's output by the fastest way there is for it."""
    first = getattr(layer, "first", layer)  # of stacked layers
    if first.adds_low_rank:
        return added(layer, layer.low_rank(), x, y)
    fast: Callable[..., Tensor] | None = FORWARDS.get(type(first).forward)
    return layer(x, y) if fast is None or first.hooked else fast(layer, x, y)


def _prepared(layers: Iterable[AdapterLayer]) -> Iterator[Override]:
    """What fast paths compute for all layers at the start of a pass."""
    groups: dict[Callable, list[AdapterLayer]] = {}
    for layer in layers:
        groups.setdefault(type(layer).forward, []).append(layer)
    for forward, group in groups.items():
        if forward in PREPARATIONS:
            yield from PREPARATIONS[forward](group)
