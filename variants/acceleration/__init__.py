"""What makes a pass fast, installed from outside: without this folder everything works, slower."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

_EXCLUDED: WeakKeyDictionary[Any, tuple[int, ...]] = WeakKeyDictionary()


@contextmanager
def accelerated(handle: Any, exclude: Iterable[Any] = ()) -> Iterator[None]:
    """``with`` this, one forward pass of an adapted model or a stack in fewer operations; the same up to rounding.

    Args:
        handle: an `Adapted` or a `Stack`.
        exclude: linear maps that read another tensor than their q, k, v siblings.
    """
    modules = list(exclude)
    key = tuple(map(id, modules))
    if _EXCLUDED.get(handle, ()) != key:
        handle.read_apart(modules)
        _EXCLUDED[handle] = key
    with handle.prepared():
        yield


@contextmanager
def accelerated_updates(handle: Any) -> Iterator[None]:
    """``with`` this, a handle's ``penalty()`` and ``after_step(...)``, for all layers at once where a method can."""
    yield
