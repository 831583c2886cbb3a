"""Attributes of modules that are replaced for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

_NOTHING = object()
Standin = tuple[nn.Module, str, Any]
"""A module, the name of one of its tensors, and what is found under that name for a while."""


@contextmanager
def standing_in(standins: Iterable[Standin]) -> Iterator[None]:
    """``with`` this, each module has another value under a name: an instance's attribute hides its parameter."""
    before = []
    try:
        for module, name, value in standins:
            before.append((module, name, module.__dict__.get(name, _NOTHING)))
            module.__dict__[name] = value
        yield
    finally:
        for module, name, value in reversed(before):
            if value is _NOTHING:
                del module.__dict__[name]
            else:
                module.__dict__[name] = value
