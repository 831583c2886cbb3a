"""The content of a table: cells, rows and sections. The writers in `modules.reports.formats` turn them into text."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modules.benchmarks.base import Benchmark, Column
from modules.reports.tables.published import PublishedRow
from modules.runs.labels import natural as natural
from modules.runs.labels import plain as plain
from modules.runs.labels import short_name as short_name
from modules.runs.results import RunResult, finite_losses

if TYPE_CHECKING:
    from modules.reports.tables.rate_curves import RateCurve

SELECTION = {"dev": "best dev epoch", "split": "best epoch on half of dev (the other half is scored)"}
"""The rules by which runs choose an epoch (`--select`), in words."""


def selection(run: RunResult) -> str:
    """The rule of a run: "dev", where the rows that choose are those that are scored, or "split"."""
    return run.training.get("select", "dev")


@dataclass(frozen=True)
class Cell:
    """One column of one row: a run per seed, in the order of seeds."""

    column: Column
    runs: tuple[RunResult, ...]
    statistic: str = "median"

    @property
    def task(self) -> str:
        """The task whose runs it shows."""
        return self.column.task

    @property
    def metric(self) -> str:
        """The metric that is printed: the column's, else the dev metric of the runs."""
        return self.column.metric or self.runs[0].metric

    def values(self, which: str = "best") -> list[float]:
        """The printed score of each seed; NaN where a run has none: it diverged, or is truncated.

        Args:
            which: "best" or "last": the epoch that is scored. A column with a metric has test scores alone, and so
                have runs whose epoch was chosen on other rows than those that are scored.
        """
        figures = [
            run.test if self.column.metric or selection(run) == "split" else getattr(run, which) for run in self.runs
        ]
        scores = [figure[self.metric] for figure in figures]
        return [
            math.nan if score is None or run.fault else self.column.scale * score
            for run, score in zip(self.runs, scores, strict=True)
        ]

    @property
    def truncated(self) -> int:
        """Number of runs that Trainer options let train or score on a part of the rows alone."""
        return sum(run.truncated for run in self.runs)

    def diverged(self, which: str = "best") -> int:
        """Number of runs that diverged, or whose metric is not a number."""
        values = zip(self.runs, self.values(which), strict=True)
        return sum(math.isnan(value) and not run.truncated for run, value in values)

    def fault(self, which: str = "best") -> str:
        """Why the cell has no score, such as "diverged 1/3"; "" where each of its runs has one."""
        counts = {"truncated": self.truncated, "diverged": self.diverged(which)}
        return ", ".join(f"{word} {count}/{len(self.runs)}" for word, count in counts.items() if count)

    def centre(self, which: str = "best") -> float:
        """Median or mean over the seeds; NaN if one of them has no score."""
        return math.nan if self.fault(which) else getattr(statistics, self.statistic)(self.values(which))

    def spread(self, which: str = "best") -> float | None:
        """Standard deviation over the seeds (n-1); None for a single seed."""
        if len(self.runs) < 2:
            return None
        return math.nan if self.fault(which) else statistics.stdev(self.values(which))


@dataclass(frozen=True)
class Row:
    """One configuration of one variant: its runs by task, and a cell for each column that they fill.

    Attributes:
        label: the settings that distinguish the row, such as `r=8 alpha=16`.
        cells: by the columns' keys.
        remarks: for the notes below the table.
        columns: number of columns of the whole table; 0 where an average over them means nothing.
    """

    protocol: str
    variant: str
    label: str
    by_task: Mapping[str, tuple[RunResult, ...]]
    cells: Mapping[str, Cell]
    remarks: tuple[str, ...] = ()
    columns: int = 0

    @property
    def runs(self) -> list[RunResult]:
        """All runs, in the order of the benchmark's tasks."""
        return [run for runs in self.by_task.values() for run in runs]

    def by_epoch(self, task: str) -> dict[int, list[float]]:
        """The dev metric of each seed after each epoch of a task, in percent.

        Epochs whose losses are no numbers are left out, and truncated runs; a single epoch is no curve, and then there
        is none.
        """
        found: dict[int, list[float]] = {}
        for run in self.by_task.get(task, ()):
            for epoch in () if run.truncated else run.epochs:
                if epoch.get(run.metric) is not None and finite_losses(epoch):
                    found.setdefault(epoch["epoch"], []).append(100 * epoch[run.metric])
        return dict(sorted(found.items())) if len(found) > 1 else {}

    @property
    def unequal(self) -> bool:
        """Whether the tasks differ in their number of seeds."""
        return len({len(runs) for runs in self.by_task.values()}) > 1

    def average(self, which: str = "best") -> float | None:
        """Mean of all columns; None where one of them has no cell, or where a mean means nothing."""
        if not self.columns or len(self.cells) != self.columns:
            return None
        return statistics.fmean(cell.centre(which) for cell in self.cells.values())

    def mean(self, columns: Sequence[Column]) -> tuple[float, float | None]:
        """Mean of the cells of `columns`, and the standard deviation over the seeds of each seed's mean.

        The spread is None for fewer than two common seeds; the mean is NaN where a run has no score.
        """
        cells = [self.cells[column.key] for column in columns]
        by_seed = [{run.seed: value for run, value in zip(c.runs, c.values(), strict=True)} for c in cells]
        seeds = sorted(set.intersection(*map(set, by_seed)))
        means = [statistics.fmean(values[seed] for values in by_seed) for seed in seeds]
        centre = statistics.fmean(cell.centre() for cell in cells)
        return centre, statistics.stdev(means) if len(means) > 1 and not math.isnan(centre) else None


@dataclass(frozen=True)
class Section:
    """The content of one table: our rows of one backbone on one source of data, and published rows for comparison.

    Attributes:
        backbone, data: of every run, as its result file names them.
        published: the papers' rows of our rows' methods.
        curves: the scores at each learning rate that compare.py tried for the rows.
        known: what has been computed of the section, which does not change, for the next format of its table.
    """

    backbone: Mapping[str, Any]
    data: Mapping[str, Any]
    rows: tuple[Row, ...]
    benchmark: Benchmark
    published: tuple[PublishedRow, ...] = ()
    curves: tuple[RateCurve, ...] = ()
    known: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The benchmark's; a second form of a score only where one of our runs has it."""
        filled = {key for row in self.rows for key in row.cells}
        return tuple(column for column in self.benchmark.columns if not column.alternative or column.key in filled)

    def published_of(self, variant: str) -> list[PublishedRow]:
        """The published rows of a variant."""
        return [row for row in self.published if row.variant == variant]
