"""Gains of large outputs that whoever reads them multiplies by, with all else that it does to them: what would be two
more tensors as large, and four more passes over memory, is a vector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from variants.acceleration.basics.tensor_notes import TensorNotes

_GAINS: TensorNotes[Tensor] = TensorNotes()
_postponed: list[Tensor] | None = None


@contextmanager
def postponing() -> Iterator[list[Tensor]]:
    """``with`` this, outputs are computed whose reader asks for their gains (:func:`gain_of`); the gains left to it."""
    global _postponed
    before, _postponed = _postponed, []
    try:
        yield _postponed
    finally:
        _postponed = before


def is_postponing() -> bool:
    """Whether the reader of what is being computed multiplies by gains itself."""
    return _postponed is not None


def postponed(u: Tensor, h: Tensor) -> Tensor:
    """``u``, which stands for (1 + h) ⊙ u from now on."""
    _postponed.append(_GAINS.put(u, h))
    return u


def gain_of(y: Tensor) -> Tensor | None:
    """The h of an output that stands for (1 + h) ⊙ y."""
    return _GAINS.get(y)


def forget() -> None:
    """What is known of tensors ends with its accelerated pass."""
    _GAINS.forget()
