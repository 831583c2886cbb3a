"""What a row of a comparison searches: each list or range among its settings is a dimension.

    lr: [1.0e-3, 3.0e-3]                        a list: one of these values
    lr: {min: 1.0e-4, max: 1.0e-2, log: true}   a range, uniform, or uniform in the logarithm
    r: {min: 2, max: 64, step: 2}               whole numbers where both ends are

A value that is a list itself stands in a list: `[[1, 2]]` is the one value `[1, 2]`.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.trial import Trial

Point = dict[str, Any]
"""A value for each dimension of a row, by the dimension's key."""
SPANS = ("step", "log")
"""What a range may say beside its ends."""
DRAWS = 100
"""Draws for each point that is wanted, after which a space of ranges is taken to have no more of them."""


@dataclass(frozen=True)
class Dimension:
    """A setting that is searched.

    Attributes:
        place: options, common or trainer, as in the file.
        name: of the setting there.
        values: to choose from; a range has none.
        low, high, step, log: a range's ends, both included, its step (0: none), and whether it is searched in the
            logarithm.
    """

    place: str
    name: str
    values: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    step: float = 0
    log: bool = False

    @property
    def key(self) -> str:
        """The name of its flag: `r`, `lr`, `trainer.accumulate_grad_batches`."""
        return f"trainer.{self.name}" if self.place == "trainer" else self.name

    @property
    def whole(self) -> bool:
        """Whether a range is of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step, int)

    @property
    def examples(self) -> tuple[Any, ...]:
        """Values that stand for all: those of a list, the ends of a range."""
        return self.values or (self.low, self.high)

    def draw(self, rng: random.Random) -> Any:
        """A value at random; of a range of numbers with four digits."""
        if self.values:
            return rng.choice(self.values)
        if self.step or self.whole and not self.log:
            step = self.step or 1
            return self.low + step * rng.randint(0, math.floor((self.high - self.low) / step + 1e-9))
        if self.log:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = rng.uniform(self.low, self.high)
        value = round(value) if self.whole else float(f"{value:.4g}")
        return min(max(value, self.low), self.high)

    def suggest(self, trial: Trial) -> Any:
        """The value that an Optuna trial has for it."""
        if not self.values:
            suggest = trial.suggest_int if self.whole else trial.suggest_float
            step = {"step": self.step} if self.step else {}
            return suggest(self.key, self.low, self.high, log=self.log, **step)
        if all(isinstance(value, (bool, int, float, str)) for value in self.values):
            return trial.suggest_categorical(self.key, self.values)
        named = {text(value): value for value in self.values}  # Optuna's choices are plain values
        return named[trial.suggest_categorical(self.key, list(named))]


def dimension(place: str, name: str, value: Any) -> Dimension | None:
    """The dimension that a setting in a file is; None where it is one value.

    Raises:
        ValueError: a list without values or with one twice, or a range that is none; the text says what is wrong.
    """
    if isinstance(value, list):
        if not value:
            raise ValueError("an empty list has no value to choose")
        if twice := [item for position, item in enumerate(value) if item in value[:position]]:
            raise ValueError(f"{text(twice[0])} stands twice in the list")
        return Dimension(place, name, values=tuple(value))
    if isinstance(value, Mapping) and {"min", "max"} <= set(value) <= {"min", "max", *SPANS}:
        return _range(place, name, value)
    return None


def _range(place: str, name: str, value: Mapping[str, Any]) -> Dimension:
    low, high, step, log = value["min"], value["max"], value.get("step", 0), value.get("log", False)
    if not all(type(number) in (int, float) for number in (low, high, step)) or not isinstance(log, bool):
        raise ValueError("a range has numbers as min, max and step, and true or false as log (write 1.0e-3, not 1e-3)")
    if not low < high:
        raise ValueError(f"min {low:g} must be below max {high:g}")
    if log and (low <= 0 or step):
        raise ValueError("a range with log has a min above 0, and no step")
    if step < 0 or step > high - low:
        raise ValueError(f"step {step:g} must be positive, and fit between min and max")
    return Dimension(place, name, low=low, high=high, step=step, log=log)


def size(space: Sequence[Dimension]) -> float:
    """How many points a space has; infinite where a dimension is a range."""
    return math.prod(len(each.values) or math.inf for each in space)


def grid(space: Sequence[Dimension]) -> list[Point]:
    """All points of lists; the one point without a value where there is no dimension."""
    keys = [each.key for each in space]
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(each.values for each in space))]


def drawn(space: Sequence[Dimension], trials: int, seed: int) -> list[Point]:
    """Different points at random, the same for the same seed: all of them where there are not more than ``trials``."""
    if size(space) <= trials:
        return grid(space)
    rng, found = random.Random(seed), {}
    for _ in range(DRAWS * trials):
        point = {each.key: each.draw(rng) for each in space}
        found.setdefault(words(point), point)
        if len(found) == trials:
            break
    return list(found.values())


def text(value: Any) -> str:
    """A value as tables and file names have it; 1.0 is not 1, where they mean all of the batches and one."""
    if isinstance(value, float):
        short = f"{value:.6g}"
        return f"{short}.0" if short.lstrip("-").isdigit() else short
    return value if isinstance(value, str) else json.dumps(value)


def words(point: Point) -> str:
    """A point in words, such as ``r=8 lr=0.001``."""
    return " ".join(f"{key}={text(value)}" for key, value in point.items())
