"""Attributes of objects that are replaced for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_NOTHING = object()
Override = tuple[Any, str, Any]
"""An object, the name of one of its attributes, and the value that it has for a while."""


@contextmanager
def overriding(overrides: Iterable[Override]) -> Iterator[None]:
    """``with`` this, objects have other values under some names.

    An instance's attribute hides a module's parameter and a method of the class; both are back at the end.
    """
    before = []
    try:
        for thing, name, value in overrides:
            own = vars(thing)
            before.append((own, name, own.get(name, _NOTHING)))
            own[name] = value
        yield
    finally:
        for own, name, value in reversed(before):
            if value is _NOTHING:
                del own[name]
            else:
                own[name] = value
