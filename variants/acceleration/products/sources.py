"""How large tensors are computed again in the backward pass, from what is kept for other reasons anyway."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from variants.acceleration.basics.policy import large
from variants.acceleration.basics.tensor_notes import TensorNotes


class Source(NamedTuple):
    """What a tensor is made of.

    Attributes:
        values: computes it again from ``kept``, without gradients.
        kept: tensors that the backward pass of what made it needs too, so that keeping them costs nothing.
    """

    values: Callable[..., Tensor]
    kept: tuple[Tensor, ...]


_SOURCES: TensorNotes[Source] = TensorNotes()


def remember(made: Tensor, values: Callable[..., Tensor], *kept: Tensor) -> Tensor:
    """Say how ``made`` is computed again, where it is large; ``made``."""
    if large(made):
        _SOURCES.put(made, Source(values, tuple(tensor.detach() for tensor in kept)))
    return made


def source_of(x: Tensor) -> Source:
    """How the values of ``x`` are had in the backward pass: computed again, or kept."""
    return _SOURCES.get(x) or Source(_itself, (x,))


def forget() -> None:
    """What is known of tensors ends with its accelerated pass."""
    _SOURCES.forget()


def _itself(x: Tensor) -> Tensor:
    return x
