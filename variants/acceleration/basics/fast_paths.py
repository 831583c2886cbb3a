"""Functions that replace a method's own in an accelerated pass: the same to rounding, in fewer operations.

A fast path is registered for the very function that it replaces. A subclass that overrides the function is computed
the way it says, without the fast path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from torch import Tensor

from variants.acceleration.basics.overrides import Override
from variants.layer import AdapterLayer
from variants.variant import BaseVariant

Function = TypeVar("Function", bound=Callable[..., Any])

FORWARDS: dict[Callable, Callable[[AdapterLayer, Tensor, Tensor], Tensor]] = {}
"""``forward`` of a class of layers -> the same for (layer, x, y)."""
ON_UPDATED: set[Callable] = set()
"""``forward`` of classes of layers whose fast path takes y with the layer's low-rank update in it, where it has it
(`products.updated_maps.is_updated`)."""
PREPARATIONS: dict[Callable, Callable[[Sequence[AdapterLayer]], Iterable[Override]]] = {}
"""``forward`` of a class of layers -> what is computed for all of them at once, at the start of a pass."""
UPDATES: dict[Callable, Callable[..., Any]] = {}
"""A function of a variant that is called between passes -> the same for (variant, ...)."""
PRODUCTS_ALONE: set[type[AdapterLayer]] = set()
"""Classes of layers, subclasses excepted, that use their matrices in products alone: these may be rounded before."""


def replaces(table: dict[Callable, Function], function: Callable) -> Callable[[Function], Function]:
    """Decorator: the fast path of ``function`` in one of the tables."""

    def register(fast: Function) -> Function:
        table[function] = fast
        return fast

    return register


def update_overrides(variant: BaseVariant) -> Iterable[Override]:
    """Overrides of a variant's functions that have a fast path."""
    for name in dir(type(variant)):
        if fast := UPDATES.get(getattr(type(variant), name, None)) if not name.startswith("__") else None:
            yield variant, name, fast.__get__(variant)
