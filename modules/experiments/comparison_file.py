"""What a comparison file (`configs/compare/*.yaml`) holds, checked when it is read."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from modules.benchmarks.base import BENCHMARKS, benchmark
from modules.documents import read_yaml
from variants.errors import UserError
from variants.schema import Seed, built, check_keys


def _rates(value: Any) -> None:
    rates = value if isinstance(value, list) else [value]
    if not rates or not all(type(rate) in (int, float) and 0 < rate <= 1000 for rate in rates):
        raise ValueError("must be a number or a list of numbers such as 1.0e-3")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row: a variant (by default of the row's name), its options, training settings, and learning rates to try."""

    variant: str | None = None
    options: dict[str, Any] | None = None
    common: dict[str, Any] | None = None
    lr: Annotated[Any, _rates]
    seeds: list[Seed] | None = None

    @property
    def grid(self) -> tuple[float, ...]:
        """The learning rates to choose from."""
        return tuple(map(float, self.lr if isinstance(self.lr, list) else [self.lr]))


@dataclass(frozen=True, kw_only=True)
class Tune:
    """How learning rates are chosen: on which seed and tasks, and what differs from the runs of the comparison."""

    seed: Seed
    tasks: list[str]
    epochs: int | None = None
    common: dict[str, Any] | None = None
    metric: str | None = None
    trainer: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class ComparisonFile:
    """The whole file; `tasks` and `common` hold training settings, `trainer` options of lightning.Trainer."""

    benchmark: str = "glue"
    seeds: list[Seed]
    common: dict[str, Any]
    trainer: dict[str, Any] | None = None
    tasks: dict[str, dict[str, Any] | None]
    tune: Tune
    variants: dict[str, Entry]


def read(path: Path) -> ComparisonFile:
    """The content of a comparison file. Raises UserError naming the file, the place and what is wrong."""
    content = read_yaml(path)
    keys = {f.name for f in fields(ComparisonFile)}
    check_keys(content, keys, str(path))
    for key in sorted(keys - {"benchmark", "trainer"}):
        if not content.get(key):
            raise UserError(f"{path} lacks {key!r}: see configs/compare for an example")
    found = built(ComparisonFile, content, str(path))
    if found.benchmark not in BENCHMARKS:
        raise UserError(f"{path}: benchmark must be one of {', '.join(BENCHMARKS)}, not {found.benchmark!r}")
    if missing := [task for task in found.tune.tasks if task not in found.tasks]:
        raise UserError(f"{path}: tune: {missing[0]!r} is none of the plan's tasks")
    _check_settings(found, path)
    for name in found.variants:
        if not re.fullmatch(r"\w[\w.+=-]{0,99}", name):
            raise UserError(f"{path}: {name!r} is no name of a row: it names files too, so letters, digits, . _ - + =")
    return found


def _check_settings(found: ComparisonFile, path: Path) -> None:
    own = benchmark(found.benchmark)
    check_keys(found.tasks, own.tasks, f"{path}: tasks")
    places = {"common": found.common, "tune: common": found.tune.common}
    places |= {f"tasks: {name}": values for name, values in found.tasks.items()}
    places |= {f"variants: {name}: common": entry.common for name, entry in found.variants.items()}
    if found.tune.epochs is not None:
        places["tune"] = {"epochs": found.tune.epochs}
    for place, values in places.items():
        own.settings.check(values or {}, f"{path}: {place}")
