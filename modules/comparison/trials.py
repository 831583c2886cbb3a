"""A trial: a point of a row's space, its tuning runs, and its score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import fmean

from modules.comparison.comparison import Comparison, Row
from modules.comparison.space import Point
from modules.reports.tables.rate_curves import Rule
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore
from modules.runs.score_form import form

NO_RESULT = "no result"
"""Why a trial has no score that is not done: a run of it has no result yet."""


@dataclass(frozen=True)
class Trial:
    """A point of a row's space, and how good it is.

    Attributes:
        runs: the tuning runs that say so, one for each task of `tune`.
        score: higher is better; None where a run has no result or no score.
        fault: why there is no score: "diverged", "truncated" (`RunResult.fault`) or `NO_RESULT`.
        metric: the name of the score.
    """

    point: Point
    runs: tuple[RunConfig, ...]
    score: float | None = None
    fault: str = ""
    metric: str = ""

    @property
    def done(self) -> bool:
        """Whether all of its runs have a result, be it one without a score."""
        return self.fault != NO_RESULT


Trials = dict[str, list[Trial]]
"""The trials of each row that has something to choose, by its name."""


def trial(comparison: Comparison, row: Row, point: Point) -> Trial:
    """The trial of a point, with its score where its runs are done."""
    return scored(comparison, Trial(point, tuple(comparison.runs(row, point, tuning=True))))


def scored(comparison: Comparison, each: Trial) -> Trial:
    """The trial with its score of now, the mean of its runs' figures, or why it has none."""
    store, metric = ResultStore(comparison.tuning), comparison.content.tune.metric
    results = [store.read(run.id) for run in each.runs]
    if not all(results):
        return replace(each, score=None, fault=NO_RESULT)
    found = [(Rule(metric).figure(result), result.fault or "diverged") for result in results]
    if faults := [fault for value, fault in found if value is None]:
        return replace(each, score=None, fault=faults[0])
    return replace(each, score=fmean(value for value, _ in found), fault="", metric=metric or results[0].metric)


def best(trials: Iterable[Trial]) -> Trial | None:
    """The first of the highest score; None where none has one."""
    good = [each for each in trials if each.score is not None]
    return max(good, key=lambda each: each.score, default=None)


def faults(trials: Iterable[Trial]) -> str:
    """How many have no score and why, such as "2 diverged, 1 truncated"; "" where all have one."""
    counts = Counter(each.fault for each in trials if each.score is None)
    return ", ".join(f"{count} {fault}" for fault, count in counts.items())


def score_text(trial: Trial, metric: str | None) -> str:
    """The score of a trial as people read it: a metric in percent, a loss as it is; or why there is none."""
    score = trial.score
    if score is None:
        return trial.fault
    if metric == "loss":
        return f"{-score:.4f}"
    scale, digits = form(metric or trial.metric)
    return f"{scale * score:.{max(2, digits)}f}"
