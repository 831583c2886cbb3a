"""A benchmark's table: run files in, rows and cells out. The other files of this folder turn them into text.

Numbers of different backbones or data never share a section, settings that differ never share a row, and no cell
holds what no run file backs. The same run files give the same bytes.
"""

import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules.benchmarks.base import Benchmark, Column
from modules.benchmarks.glue import GLUE
from modules.reports.published import PublishedRow
from modules.runs.results import RunResult, canonical, data_names, run_id

Settings = dict[tuple[str, str], str]
"""(part of the result, name) -> the value as canonical JSON, so that equal means equal."""

_FIRST = ("full", "head", "bitfit", "lora", "adalora", "dora", "vera")  # order of rows; others follow by name


@dataclass(frozen=True)
class Cell:
    """One column of one row: a run per seed, in the order of seeds."""

    column: Column
    runs: tuple[RunResult, ...]
    statistic: str = "median"

    @property
    def task(self) -> str:
        return self.column.task

    @property
    def metric(self) -> str:
        """The metric that the column prints."""
        return self.column.metric or self.runs[0].metric

    def values(self, which: str = "best") -> list[float]:
        """The printed figure of each seed; NaN where a run diverged. `which`: best or last (epoch)."""
        scores = [
            run.test[self.metric] if self.column.metric else getattr(run, which)[self.metric] for run in self.runs
        ]
        return [math.nan if score is None else self.column.scale * score for score in scores]

    def diverged(self, which: str = "best") -> int:
        """Number of runs whose metric is not a number."""
        return sum(math.isnan(value) for value in self.values(which))

    def centre(self, which: str = "best") -> float:
        """Median or mean over the seeds; NaN if any of them diverged."""
        return math.nan if self.diverged(which) else getattr(statistics, self.statistic)(self.values(which))

    def spread(self, which: str = "best") -> float | None:
        """Standard deviation over the seeds (n-1); None for a single seed."""
        if len(self.runs) < 2:
            return None
        return math.nan if self.diverged(which) else statistics.stdev(self.values(which))


@dataclass(frozen=True)
class Row:
    """One configuration of one variant: what it is called, its runs by task, and a cell per column that they fill."""

    protocol: str
    variant: str
    label: str
    by_task: Mapping[str, tuple[RunResult, ...]]
    cells: Mapping[str, Cell]  # by the columns' keys
    remarks: tuple[str, ...] = ()
    columns: int = 0  # of the whole table, where their average means something

    @property
    def runs(self) -> list[RunResult]:
        """All runs, in the order of the benchmark's tasks."""
        return [run for runs in self.by_task.values() for run in runs]

    @property
    def unequal(self) -> bool:
        """Whether the tasks differ in their number of seeds."""
        return len({len(runs) for runs in self.by_task.values()}) > 1

    def average(self, which: str = "best") -> float | None:
        """Mean of the columns; None unless all are there."""
        if not self.columns or len(self.cells) != self.columns:
            return None
        return statistics.fmean(cell.centre(which) for cell in self.cells.values())

    def mean(self, columns: Sequence[Column]) -> tuple[float, float | None]:
        """Mean of the cells of `columns`, and the standard deviation over seeds of each seed's own mean.

        None for a spread that fewer than two common seeds give; NaN where a run diverged.
        """
        cells = [self.cells[column.key] for column in columns]
        by_seed = [{run.seed: value for run, value in zip(c.runs, c.values(), strict=True)} for c in cells]
        seeds = sorted(set.intersection(*map(set, by_seed)))
        means = [statistics.fmean(values[seed] for values in by_seed) for seed in seeds]
        centre = statistics.fmean(cell.centre() for cell in cells)
        return centre, statistics.stdev(means) if len(means) > 1 and not math.isnan(centre) else None


@dataclass(frozen=True)
class Section:
    """What may stand in one table: one backbone on one source of data, and the published rows beside it."""

    backbone: Mapping[str, Any]
    data: Mapping[str, Any]
    rows: tuple[Row, ...]
    published: tuple[PublishedRow, ...] = ()
    benchmark: Benchmark = GLUE

    def beside(self, variant: str) -> list[PublishedRow]:
        """The published rows of one variant."""
        return [row for row in self.published if row.variant == variant]


def build(
    results: Iterable[RunResult], published: Sequence[PublishedRow] = (), benchmark: Benchmark = GLUE
) -> list[Section]:
    """Sections, rows and cells of all results of a benchmark, sorted by names: the order of `results` is no matter."""
    groups: dict[tuple[str, ...], list[RunResult]] = {}
    ordered = sorted(results, key=lambda run: run.id)
    names = data_names(ordered)
    for run in ordered:
        if run.benchmark == benchmark.name and run.task in benchmark.tasks:
            place = (run.backbone["source"], run.backbone["name"], str(run.backbone["hash"]))
            groups.setdefault((*place, *names[run.data["source"], run.data["name"]]), []).append(run)
    sections = []
    for (*_, source, name), runs in sorted(groups.items()):
        rows = sorted(_rows(runs, {run.id: run for run in runs}, benchmark), key=_row_order)
        backbone, data = runs[0].backbone, runs[0].data | {"source": source, "name": name}
        beside = _beside(rows, backbone, published, benchmark)
        sections.append(Section(backbone, data, tuple(rows), tuple(beside), benchmark))
    return sections


def short_name(backbone: str) -> str:
    """A model's name without its owner: FacebookAI/roberta-base is roberta-base."""
    return backbone.rpartition("/")[2]


def _beside(
    rows: list[Row], backbone: Mapping, published: Sequence[PublishedRow], benchmark: Benchmark
) -> list[PublishedRow]:
    """Per variant: published rows of this very backbone, else of the papers' own, else of any; each figure once."""
    found = []
    for variant in dict.fromkeys(row.variant for row in rows):
        own = [row for row in published if row.variant == variant and not row.repeats]
        for model in (short_name(backbone["name"]), benchmark.paper_model):
            if same := [row for row in own if row.model == model]:
                own = same
                break
        found += own
    return found


def _rows(runs: list[RunResult], by_id: Mapping[str, RunResult], benchmark: Benchmark) -> list[Row]:
    """Group by protocol, variant and hand-set options; then split on every setting that differs within a task."""
    groups: dict[tuple[str, str, str], list[RunResult]] = {}
    for run in runs:
        groups.setdefault((run.protocol, run.variant, _text(run.overrides)), []).append(run)
    rows = []
    for (protocol, variant, _), group in sorted(groups.items()):
        settings = {run.id: _settings(run, by_id) for run in group}
        differing = _differing(group, settings, benchmark)
        parts: dict[tuple[str, ...], list[RunResult]] = {}
        for run in group:
            parts.setdefault(tuple(settings[run.id].get(key, "null") for key in differing), []).append(run)
        for values, part in sorted(parts.items()):
            shown = dict(zip(differing, values, strict=True))
            rows.append(_row(protocol, variant, part, shown, benchmark))
    return rows


def _settings(run: RunResult, by_id: Mapping[str, RunResult]) -> Settings:
    """All that must be equal within a cell, seed aside; the settings of the run that it started from included."""
    start = by_id.get(run.init_from["id"]) if run.init_from else None
    parts = {
        "option": run.variant_config,
        "training": {key: value for key, value in run.training.items() if key not in ("seed", "seeds")},
        "data": {"hash": run.data["hash"]},
        "trainer": run.trainer,
        "start": {
            "init_from": run.init_from and run.init_from["task"],
            "init_from_settings": start and run_id({"/".join(k): v for k, v in _settings(start, by_id).items()}),
        },
        "score": {"metric": run.metric, "code": run.code},
    }
    return {(part, name): _text(value) for part, values in parts.items() for name, value in values.items()}


def _differing(runs: list[RunResult], settings: Mapping[str, Settings], benchmark: Benchmark) -> list[tuple[str, str]]:
    """The settings that take two values within one task: what differs between tasks only may be the recipe's."""
    keys = sorted({key for run in runs for key in settings[run.id]})
    seen: dict[tuple, set[str]] = {}
    for run in runs:
        for key in keys:
            seen.setdefault((key, run.task), set()).add(settings[run.id].get(key, "null"))
    return [key for key in keys if any(len(seen[key, task]) > 1 for task in benchmark.tasks if (key, task) in seen)]


def _row(
    protocol: str,
    variant: str,
    runs: list[RunResult],
    differing: Mapping[tuple[str, str], str],
    benchmark: Benchmark,
) -> Row:
    by_task: dict[str, tuple[RunResult, ...]] = {}
    remarks = []
    for task in benchmark.tasks:
        by_seed: dict[int, RunResult] = {}
        for run in sorted((r for r in runs if r.task == task), key=lambda r: (_time(r), r.id)):
            if run.seed in by_seed:
                old = by_seed[run.seed].id
                remarks.append(
                    f"{benchmark.tasks[task].title}, seed {run.seed}: the newer of two runs ({run.id}, not {old})"
                )
            by_seed[run.seed] = run
        if by_seed:
            by_task[task] = tuple(by_seed[seed] for seed in sorted(by_seed))
    cells = {
        column.key: Cell(column, by_task[column.task], benchmark.statistic)
        for column in benchmark.columns
        if column.task in by_task and _has(column, by_task[column.task])
    }
    columns = len(benchmark.columns) if benchmark.average else 0
    return Row(protocol, variant, _label(runs, differing), by_task, cells, tuple(remarks), columns)


def _has(column: Column, runs: tuple[RunResult, ...]) -> bool:
    """Whether the runs have the column's score: a scorer may have been missing where some of them ran."""
    return not column.metric or all((run.test or {}).get(column.metric) is not None for run in runs)


def _label(runs: list[RunResult], differing: Mapping[tuple[str, str], str]) -> str:
    """The variant's sizes (whole numbers, alpha, target), what was set by hand, and what tells the row from others."""
    words: dict[str, str] = {}
    for name in dict.fromkeys(name for run in runs for name in run.variant_config):
        values = sorted({_text(run.variant_config.get(name)) for run in runs}, key=natural)
        whole = all(re.fullmatch(r"-?\d+", value) for value in values)
        if (whole or name in ("alpha", "target")) and len(values) <= 2 and values not in (["0"], ["null"]):
            words[name] = "/".join(plain(value) for value in values)
    for name, value in runs[0].overrides.items():
        words[name] = plain(_text(value))
    for (_, name), value in differing.items():
        words[name] = plain(value)
    if len(wanted := {(run.budget or {}).get("wanted") for run in runs}) == 1 and None not in wanted:
        words["budget"] = f"{wanted.pop():,}"
    return " ".join(f"{name}={value}" for name, value in words.items())


def _row_order(row: Row) -> tuple:
    known = _FIRST.index(row.variant) if row.variant in _FIRST else len(_FIRST)
    return known, row.variant, row.protocol, natural(row.label), min(run.id for run in row.runs)


def natural(text: str) -> list[tuple[int, float, str]]:
    """Sort key under which r=8 comes before r=16, and lr=0.0005 before lr=0.001."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e-?\d+)?)", text)
    return [(0, float(part), "") if index % 2 else (1, 0.0, part) for index, part in enumerate(parts) if part]


def plain(text: str) -> str:
    """Canonical JSON as a person writes it: no quotes around a word."""
    value = json.loads(text)
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else text


def _text(value: Any) -> str:
    return json.dumps(canonical(value), sort_keys=True, ensure_ascii=False)


def _time(run: RunResult) -> str:
    return str(run.environment.get("time", ""))
