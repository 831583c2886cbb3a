"""Random numbers as they are drawn, with the line that draws them."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy
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
    seed: Any
    state: bytes


SEEDING = ((random, "seed"), (numpy.random, "seed"), (numpy.random, "default_rng"))
"""How an inventor's file may seed numbers that are not PyTorch's."""


class Draws(TorchDispatchMode):
    """``with`` this, draws on the CPU are noted in their order; of Python's and NumPy's numbers, that they are seeded.

    Attributes:
        drawn: what there has been.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[Draw] = []
        self._seeding = [(place, name, getattr(place, name)) for place, name in SEEDING]

    def __enter__(self) -> Draws:
        """Watch."""
        for place, name, seeding in self._seeding:
            setattr(place, name, self._noted(seeding))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Leave all as it was."""
        for place, name, seeding in self._seeding:
            setattr(place, name, seeding)
        super().__exit__(*error)

    def _noted(self, seeding: Callable) -> Callable:
        @functools.wraps(seeding)
        def noted(*seed: Any, **named: Any) -> Any:
            given = (*seed, *named.values())
            if given and given[0] is not None and (place := calling()):
                self.drawn.append(Draw(place, given[0], hashlib.sha256(repr(given).encode()).digest()))
            return seeding(*seed, **named)

        return noted

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Note a function that draws, and carry it out."""
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags:
            given = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Generator)]
            generator = given[0] if given else torch.default_generator
            state = hashlib.sha256(generator.get_state().numpy().tobytes()).digest()
            self.drawn.append(Draw(calling(), generator.initial_seed(), state))
        return func(*args, **kwargs)
