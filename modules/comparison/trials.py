"""A trial: a point of a row's space, its tuning runs, and its score."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import fmean

from modules.comparison.comparison import Comparison, Row
from modules.comparison.space import Point
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore, RunResult
from modules.runs.score_form import form

DIVERGED = -math.inf
"""The score of a trial of which a run diverged: below all others."""


@dataclass(frozen=True)
class Trial:
    """A point of a row's space, and how good it is.

    Attributes:
        runs: the tuning runs that say so, one for each task of `tune`.
        score: higher is better; `DIVERGED`, or None where a run has no result.
    """

    point: Point
    runs: tuple[RunConfig, ...]
    score: float | None


Trials = dict[str, list[Trial]]
"""The trials of each row that has something to choose, by its name."""


def trial(comparison: Comparison, row: Row, point: Point) -> Trial:
    """The trial of a point, with its score where its runs are done."""
    runs = tuple(comparison.runs(row, point, tuning=True))
    return Trial(point, runs, score(comparison, runs))


def score(comparison: Comparison, runs: tuple[RunConfig, ...]) -> float | None:
    """The mean of the runs' figures; None where one has no result yet."""
    store = ResultStore(comparison.tuning)
    results = [store.read(run.id) for run in runs]
    return fmean(figure(result, comparison.content.tune.metric) for result in results) if all(results) else None


def figure(result: RunResult, metric: str | None) -> float:
    """What tuning compares, higher is better: the run's best dev metric, or with `metric: loss` its lowest loss."""
    name = metric or result.metric
    values = [epoch.get(name) for epoch in result.epochs]
    values = [value for value in values if value is not None and math.isfinite(value)]
    if not values or result.diverged:
        return DIVERGED
    return -min(values) if name == "loss" else max(values)


def scored(comparison: Comparison, each: Trial) -> Trial:
    """The trial with its score of now."""
    return replace(each, score=score(comparison, each.runs))


def best(trials: list[Trial]) -> Trial | None:
    """The first of the highest score; None where none has one."""
    good = [each for each in trials if each.score is not None and each.score > DIVERGED]
    return max(good, key=lambda each: each.score, default=None)


def score_text(score: float | None, metric: str | None) -> str:
    """A score of a trial as people read it: a metric in percent, a loss as it is."""
    if score is None:
        return "no result"
    if score == DIVERGED:
        return "diverged"
    return f"{-score:.4f}" if metric == "loss" else f"{form(metric or '')[0] * score:.2f}"
