"""Random numbers as they are drawn, with the line that draws them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from variants.outside.places import calling


class Draw(NamedTuple):
    """One call that draws.

    Attributes:
        place: the line of an inventor's file that makes it, such as ``my_file.py:12``; "" where none does.
        seed: what its generator was seeded with.
        state: a digest of where the generator stood: draws of equal ones are equal.
    """

    place: str
    seed: int
    state: bytes


class Draws(TorchDispatchMode):
    """``with`` this, draws on the CPU are noted in their order.

    Attributes:
        drawn: what there has been.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[Draw] = []

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Note a function that draws, and carry it out."""
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags:
            given = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Generator)]
            generator = given[0] if given else torch.default_generator
            state = hashlib.sha256(generator.get_state().numpy().tobytes()).digest()
            self.drawn.append(Draw(calling(), generator.initial_seed(), state))
        return func(*args, **kwargs)
