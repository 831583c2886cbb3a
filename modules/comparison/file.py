"""What a comparison file (`configs/compare/*.yaml`) holds, checked when it is read."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from modules.benchmarks.base import Benchmark, benchmark
from modules.benchmarks.outside import names
from modules.benchmarks.settings import described
from modules.comparison.space import Dimension, dimension, size
from modules.documents import read_yaml
from modules.runs.config import NEUTRAL
from modules.runs.trainer_options import truncates
from variants.errors import UserError
from variants.schema import Seed, between, built, check_keys

FOR_ALL = NEUTRAL - {"precision"}
"""Trainer options that do not decide what comes out: they are the whole file's, and no dimension."""


def _rates(value: Any) -> None:
    rates = value if isinstance(value, list) else [value]
    if isinstance(value, dict) and {"min", "max"} <= value.keys():
        rates = [value["min"], value["max"]]
    if not rates or not all(type(rate) in (int, float) and 0 < rate <= 1000 for rate in rates):
        raise ValueError("must be a number, a list or a range of numbers above 0 such as 1.0e-3")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row: a variant (by default of the row's name), its options, training settings and options of
    lightning.Trainer. Lists and ranges among them are dimensions (`space.py`); `lr` is short for that of `common`."""

    variant: str | None = None
    options: dict[str, Any] | None = None
    common: dict[str, Any] | None = None
    trainer: dict[str, Any] | None = None
    lr: Annotated[Any, _rates] = None
    seeds: list[Seed] | None = None


@dataclass(frozen=True, kw_only=True)
class Tune:
    """How the setting of a row is chosen: by which search, on which seeds and tasks, and what differs from the runs of
    the comparison.

    Attributes:
        search: grid (every point), random, or optuna; with the last two `trials` points in each row.
        seed, seeds: of the tuning runs, one or several; the first is that of the search.
    """

    tasks: list[str]
    seed: Seed | None = None
    seeds: list[Seed] | None = None
    search: Literal["grid", "random", "optuna"] = "grid"
    trials: Annotated[int, between(1, 100_000)] | None = None
    epochs: int | None = None
    common: dict[str, Any] | None = None
    metric: str | None = None
    trainer: dict[str, Any] | None = None

    @property
    def trained(self) -> tuple[int, ...]:
        """The seeds of the tuning runs."""
        return tuple(self.seeds or [self.seed])


@dataclass(frozen=True, kw_only=True)
class ComparisonFile:
    """The whole file; `tasks` and `common` hold training settings, `trainer` options of lightning.Trainer, and `data`
    the flags that describe one's own data (docs/data.md).

    Without `seeds` the file is a search alone; without a dimension in any row it needs no `tune`.
    """

    benchmark: str = "glue"
    data: dict[str, Any] | None = None
    seeds: list[Seed] | None = None
    common: dict[str, Any]
    trainer: dict[str, Any] | None = None
    tasks: dict[str, dict[str, Any] | None]
    tune: Tune | None = None
    variants: dict[str, Entry]

    @property
    def own(self) -> Benchmark:
        """The benchmark. Raises UserError where there is none, or where the data are not described as they must be."""
        lists = {name: value if isinstance(value, list) else [value] for name, value in (self.data or {}).items()}
        return benchmark(self.benchmark).on({name: ",".join(map(str, values)) for name, values in lists.items()})

    def settings(self, name: str, where: str = "") -> dict[str, dict[str, Any]]:
        """The settings of a row by place (options, common, trainer): the row's own win over the file's.

        Raises:
            UserError: `lr` is given twice.
        """
        entry = self.variants[name]
        if entry.lr is not None and "lr" in (entry.common or {}):
            raise UserError(f"{where}: {name}: lr stands both in the row and in its common: leave one out")
        own = (entry.common or {}) | ({} if entry.lr is None else {"lr": entry.lr})
        trainer = {key: value for key, value in (self.trainer or {}).items() if key not in FOR_ALL}
        return {"options": entry.options or {}, "common": self.common | own, "trainer": trainer | (entry.trainer or {})}

    @property
    def for_all(self) -> dict[str, Any]:
        """Trainer options that say how all runs are carried out."""
        return {key: value for key, value in (self.trainer or {}).items() if key in FOR_ALL}


def split(settings: Mapping[str, Mapping[str, Any]], where: str) -> tuple[dict[str, dict], tuple[Dimension, ...]]:
    """(single values by place, dimensions) of a row's settings; a list of one is its value.

    Raises:
        UserError: a list or range is none; the line begins with `where`.
    """
    fixed: dict[str, dict[str, Any]] = {place: {} for place in settings}
    space = []
    for place, values in settings.items():
        for name, value in values.items():
            try:
                found = dimension(place, name, value)
            except ValueError as error:
                raise UserError(f"{where}: {place}: {name}: {error}") from None
            if found and len(found.values) != 1:
                space.append(found)
            else:
                fixed[place][name] = found.values[0] if found else value
    return fixed, tuple(space)


def only(content: ComparisonFile, tasks: Collection[str], path: Path) -> ComparisonFile:
    """A part of a file: some of its tasks, which then choose the settings too; none: the whole of it.

    Raises:
        UserError: it has no such task, or none of them chooses settings.
    """
    if not tasks:
        return content
    if unknown := [task for task in tasks if task not in content.tasks]:
        raise UserError(f"{path} has no task {unknown[0]!r}; it has {', '.join(content.tasks)}")
    found, rule = {task: values for task, values in content.tasks.items() if task in tasks}, content.tune
    if rule:
        rule = replace(rule, tasks=[task for task in rule.tasks if task in found])
        if not rule.tasks:
            raise UserError(f"{path}: tune: settings are chosen by {', '.join(content.tune.tasks)}: name one of them")
    return replace(content, tasks=found, tune=rule)


def read(path: Path, code: Collection[str] = ()) -> ComparisonFile:
    """The content of a comparison file.

    Args:
        code: what of the code outside the project the caller has named: a file brings none.

    Raises:
        UserError: naming the file, the place and what is wrong.
    """
    content = read_yaml(path)
    keys = {f.name for f in fields(ComparisonFile)}
    check_keys(content, keys, str(path))
    for key in ("common", "tasks", "variants"):
        if not content.get(key):
            raise UserError(f"{path} lacks {key!r}: see configs/compare for an example")
    if "seeds" in content and not content["seeds"]:
        raise UserError(f"{path} lacks 'seeds': name some, or leave the key out for a search alone")
    found = built(ComparisonFile, content, str(path))
    _check_benchmark(found, path, code)
    for name in found.variants:
        if not re.fullmatch(r"\w[\w.+=-]{0,99}", name):
            raise UserError(f"{path}: {name!r} is no name of a row: it names files too, so letters, digits, . _ - + =")
    _check_tune(found, path)
    _check_settings(found, path)
    for name in found.variants:
        _check_row(found, name, path)
    return found


def _check_benchmark(found: ComparisonFile, path: Path, code: Collection[str]) -> None:
    if ":" in found.benchmark and found.benchmark not in code:
        raise UserError(
            f"a file brings no code, and {path} names the benchmark {found.benchmark!r}: if you trust that code, name "
            f"it yourself: --code {found.benchmark}"
        )
    if ":" not in found.benchmark and found.benchmark not in names():
        raise UserError(f"{path}: benchmark must be one of {', '.join(names())}, not {found.benchmark!r}")
    if found.data and not benchmark(found.benchmark).data_flags:
        raise UserError(f"{path}: data describes one's own data, which need benchmark: custom")
    try:
        _ = found.own
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _check_tune(found: ComparisonFile, path: Path) -> None:
    rule = found.tune
    if rule is None:
        return
    if not rule.tasks:
        raise UserError(f"{path}: tune: tasks names no task")
    if (rule.seed is None) == (not rule.seeds):
        raise UserError(f"{path}: tune: needs either a seed or a list of seeds of the tuning runs")
    if missing := [task for task in rule.tasks if task not in found.tasks]:
        raise UserError(f"{path}: tune: {missing[0]!r} is none of the plan's tasks")
    if rule.search == "grid" and rule.trials is not None:
        raise UserError(f"{path}: tune: a grid tries every point: leave trials out, or say search: random or optuna")
    if rule.search != "grid" and rule.trials is None:
        raise UserError(f"{path}: tune: {rule.search} needs the number of trials of each row, such as trials: 20")


def _check_settings(found: ComparisonFile, path: Path) -> None:
    own = found.own
    check_keys(found.tasks, own.tasks, f"{path}: tasks")
    places = {f"tasks: {name}": values for name, values in found.tasks.items()}
    if found.tune:
        places["tune: common"] = found.tune.common
        if found.tune.epochs is not None:
            places["tune"] = {"epochs": found.tune.epochs}
    for place, values in places.items():
        own.settings.check(values or {}, f"{path}: {place}")
    _check_values(own, {"common": found.common, "trainer": found.trainer or {}}, str(path))
    for name, entry in found.variants.items():
        where = f"{path}: variants: {name}"
        _check_values(own, {"common": entry.common or {}}, where)
        if whole := sorted(FOR_ALL & set(entry.trainer or ())):
            raise UserError(f"{where}: trainer: {whole[0]} is for all rows: put it under the file's own trainer")


def _check_values(own: Any, places: dict[str, dict[str, Any]], where: str) -> None:
    """Each value that training settings may take, as `TrainingSettings.check` has it."""
    places = places | {"trainer": {k: v for k, v in places.get("trainer", {}).items() if k not in FOR_ALL}}
    fixed, space = split(places, where)
    own.settings.check(fixed["common"], f"{where}: common")
    for each in (each for each in space if each.place == "common"):
        for value in each.examples:
            own.settings.check({each.name: value}, f"{where}: common")


def _check_row(found: ComparisonFile, name: str, path: Path) -> None:
    where = f"{path}: variants: {name}"
    fixed, space = split(found.settings(name, str(path)), where)
    keys = {each.name for each in space if each.place == "common"} | set(fixed["common"])
    for key, known in described(found.own.settings).items():
        everywhere = all(key in (values or {}) for values in found.tasks.values())
        if known.default is MISSING and key not in keys and not everywhere:
            raise UserError(f"{where}: lacks {key!r}: give it in the row, in common, or for each of the tasks")
    rule = found.tune
    if not space:
        if found.seeds is None and found.variants[name].seeds is None:
            raise UserError(f"{where}: it has neither a list to search nor seeds to train")
        return
    if rule is None:
        raise UserError(
            f"{where}: {space[0].name} has several values, so one is chosen, and the file lacks 'tune': "
            "such as tune: {seed: 42, tasks: [" + next(iter(found.tasks)) + "]}"
        )
    if rule.search == "grid" and size(space) == float("inf"):
        wide = next(each for each in space if not each.values)
        raise UserError(f"{where}: {wide.name} is a range, which needs tune: search: random or optuna")
    own = found.variants[name].seeds or found.seeds or ()
    if (both := [seed for seed in rule.trained if seed in own]) and not _apart(found, fixed["common"]):
        raise UserError(
            f"{where}: tune: seed {both[0]} is one of the seeds that are trained: choose another"
            + (", or common: {select: split}" if "select" in described(found.own.settings) else "")
        )
    _check_reach(found, space, where)
    _check_whole(fixed["trainer"] | (rule.trainer or {}), space, where)


def _apart(found: ComparisonFile, common: Mapping[str, Any]) -> bool:
    """Whether other rows are scored than those that choose a setting: then a trial may be a run of the comparison."""
    return found.own.scored_on != "dev" or common.get("select") == "split"


def _check_whole(trainer: Mapping[str, Any], space: tuple[Dimension, ...], where: str) -> None:
    """Raise UserError where every trial would be truncated: none would have a score."""
    tried = {name: (value,) for name, value in trainer.items()}
    tried |= {each.name: each.examples for each in space if each.place == "trainer"}
    if cut := [name for name, values in tried.items() if all(truncates({name: value}) for value in values)]:
        raise UserError(
            f"{where}: with trainer: {cut[0]} every tuning run is truncated, and a truncated run has no score: leave "
            "it out, and tune with fewer epochs, or on data of few rows (docs/faq.md)"
        )


def _check_reach(found: ComparisonFile, space: tuple[Dimension, ...], where: str) -> None:
    """Raise UserError where another place would win over a dimension, so that its values would all be the same."""
    above = {f"tasks: {task}": values for task, values in found.tasks.items()}
    above |= {"tune: common": found.tune.common}
    above |= {"tune": {} if found.tune.epochs is None else {"epochs": found.tune.epochs}}
    places = {"common": above, "trainer": {"tune: trainer": found.tune.trainer}, "options": {}}
    for each in space:
        for place, values in places[each.place].items():
            if each.name in (values or {}):
                raise UserError(f"{where}: {each.name} has several values, but {place} sets it: leave it out there")
