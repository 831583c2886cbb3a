"""How good each method is at each learning rate that was tried, and what trying cost: from result files of trials.

`compare.py` leaves its trials in the folder `tuning` of a results folder. Trials that differ in task, seed and rate
alone are one curve; a curve belongs to the row of the table that has its other settings.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from modules.benchmarks.base import Benchmark
from modules.documents import read_json
from modules.reports.tables.grouping import differing, label_of, row_order, settings_of
from modules.reports.tables.section import Section
from modules.runs.results import ResultStore, RunResult
from modules.runs.score_form import form
from variants.schema import built

TUNING = "tuning"
"""Folder of the trials in a results folder."""
RULE = "rule.json"
"""File in that folder: how settings were chosen among the trials."""
REFERENCE = "lora"
"""The method by whose best rate those of the others are divided."""
RATE = ("training", "lr")


@dataclass(frozen=True)
class Rule:
    """How `compare.py` chooses a setting among its trials.

    Attributes:
        metric: "loss" for the lowest dev loss; None for the highest of the tasks' own dev metrics.
        among: by row the ids of the trials among which its setting is chosen, in one text: what else lies in the folder
            is of values that the row's lists no longer have. Rows of older folders are not named.
    """

    metric: str | None = None
    among: dict[str, str] = field(default_factory=dict)

    @cached_property
    def choosing(self) -> frozenset[str]:
        """The ids of all trials among which a setting is chosen; none where the folder does not say."""
        return frozenset(id for ids in self.among.values() for id in ids.split())

    @classmethod
    def of(cls, folder: Path) -> Rule:
        """What a folder of trials says; raises UserError where that cannot be read."""
        path = folder / RULE
        return built(cls, read_json(path), str(path)) if path.is_file() else cls()

    @property
    def words(self) -> str:
        """What the score is."""
        return "lowest dev loss" if self.metric == "loss" else f"best dev {self.metric or 'score'}"

    def figure(self, run: RunResult) -> float | None:
        """What it compares, higher is better: the best dev metric of a run, or its lowest loss with its sign turned;
        None where it diverged or was truncated."""
        name = self.metric or run.metric
        values = [epoch.get(name) for epoch in run.epochs]
        values = [value for value in values if value is not None and math.isfinite(value)]
        if not values or run.fault:
            return None
        return -min(values) if name == "loss" else max(values)

    def printed(self, run: RunResult) -> float | None:
        """The same in the units of a table: a loss as it is, a share in percent."""
        value = self.figure(run)
        if value is None:
            return None
        return -value if self.metric == "loss" else form(self.metric or run.metric)[0] * value


@dataclass(frozen=True)
class Trials:
    """The trials of a results folder, and the rule by which settings were chosen among them."""

    runs: Sequence[RunResult]
    rule: Rule = Rule()

    @classmethod
    def of(cls, folder: str | Path) -> Trials | None:
        """Those of a results folder; None where it has none. Raises UserError where the rule cannot be read."""
        place = Path(folder) / TUNING
        runs = ResultStore(place).all()
        return cls(runs, Rule.of(place)) if runs else None


@dataclass(frozen=True)
class RateCurve:
    """The trials of one method with one set of options.

    Attributes:
        by_rate: the trials of each learning rate, from the lowest.
        trained: the rates at which the row of the table trains: one, where the comparison is whole.
    """

    variant: str
    label: str
    by_rate: Mapping[float, tuple[RunResult, ...]]
    trained: tuple[float, ...]
    rule: Rule

    @cached_property
    def runs(self) -> list[RunResult]:
        """All trials."""
        return [run for runs in self.by_rate.values() for run in runs]

    @property
    def parameters(self) -> int:
        """Trained parameters, the head's left out."""
        return max(run.parameters["adapter"] for run in self.runs)

    def by_seed(self, rate: float) -> dict[int, float]:
        """The mean over the tasks of each seed's score at a rate; without the seeds that have none on some task."""
        runs = self.by_rate[rate]
        tasks, found = {run.task for run in runs}, {}
        for seed in sorted({run.seed for run in runs}):
            scores = [self.rule.printed(run) for run in runs if run.seed == seed]
            if len(scores) == len(tasks) and None not in scores:
                found[seed] = statistics.fmean(scores)
        return found

    def score(self, rate: float) -> float | None:
        """The mean over tasks and seeds; None where a run has no score, as one that diverged."""
        runs = self.by_rate[rate]
        scores = [self.rule.printed(run) for run in runs]
        return None if None in scores or not self.whole(rate) else statistics.fmean(scores)

    def whole(self, rate: float) -> bool:
        """Whether a rate was tried on all tasks and seeds of the curve."""
        pairs = {(run.task, run.seed) for run in self.by_rate[rate]}
        return pairs == {(run.task, run.seed) for run in self.runs}

    @cached_property
    def choosing(self) -> list[float]:
        """The rates among which one is chosen: those that the row's list has now, where the folder says."""
        said = self.rule.choosing
        return [rate for rate, runs in self.by_rate.items() if said & {run.id for run in runs}] or [*self.by_rate]

    @property
    def chosen_among(self) -> int:
        """How many trials are at those rates."""
        return sum(len(self.by_rate[rate]) for rate in self.choosing)

    @property
    def best(self) -> float | None:
        """The rate of the best score among those that choose; None where none has a score on all tasks and seeds."""
        scores = {rate: self.score(rate) for rate in self.choosing}
        good = {rate: score for rate, score in scores.items() if score is not None}
        return (min if self.rule.metric == "loss" else max)(good, key=good.get, default=None)

    @property
    def at_an_end(self) -> bool:
        """Whether the best rate is the lowest or the highest that was tried: a better one may lie beyond."""
        return len(self.by_rate) > 2 and self.best in (min(self.by_rate), max(self.by_rate))

    @property
    def without_score(self) -> list[float]:
        """The rates at which some run has no score."""
        return [rate for rate, runs in self.by_rate.items() if any(self.rule.figure(run) is None for run in runs)]

    @property
    def seconds(self) -> float:
        """Wall-clock time of all trials; seeds that were trained at once share theirs."""
        return sum(run.seconds for run in self.runs)

    @property
    def steps(self) -> int:
        """Optimizer steps of all trials, each seed's counted."""
        return sum(run.cost.get("steps") or 0 for run in self.runs)


def rate_curves(section: Section, trials: Trials) -> list[RateCurve]:
    """The curves of a section's backbone and data in the order of its table's rows; none where no rates were tried.

    Of a search that is not finished, the tasks count on which every curve has all its rates: means over other tasks do
    not compare.
    """
    own = [run for run in trials.runs if _belongs(run, section)]
    apart = _apart(own, section.benchmark)
    tried = [{(run.training["lr"], run.task) for run in runs} for runs in apart]
    tried = [places for places in tried if len({rate for rate, _ in places}) > 1]
    whole = {run.task for run in own}
    for places in tried:
        whole = {task for task in whole if all((rate, task) in places for rate, _ in places)}
    found = []
    for group in apart:
        runs = [run for run in group if run.task in whole or not whole]
        by_rate: dict[float, list[RunResult]] = {}
        for run in sorted(runs, key=lambda run: (run.task, run.seed, run.id)):
            by_rate.setdefault(float(run.training["lr"]), []).append(run)
        rates = {rate: tuple(by_rate[rate]) for rate in sorted(by_rate)}
        if len(rates) > 1:
            trained = _trained(section, runs[0])
            found.append(RateCurve(runs[0].variant, label_of(runs, {}), rates, trained, trials.rule))
    return sorted(found, key=lambda curve: row_order(curve.variant, "", curve.label, curve.runs))


def _belongs(run: RunResult, section: Section) -> bool:
    place = (run.benchmark, run.backbone.get("hash"), run.backbone.get("frozen"))
    there = (section.benchmark.name, section.backbone.get("hash"), section.backbone.get("frozen"))
    hashes = {r.task: r.data["hash"] for row in section.rows for r in row.runs}
    return place == there and hashes.get(run.task, run.data["hash"]) == run.data["hash"]


def _apart(runs: Sequence[RunResult], benchmark: Benchmark) -> list[list[RunResult]]:
    """The runs of each curve: the method and every setting but the rate are the same within a task."""
    groups: dict[str, list[RunResult]] = {}
    for run in runs:
        groups.setdefault(run.variant, []).append(run)
    found: dict[tuple[str, ...], list[RunResult]] = {}
    for variant, group in sorted(groups.items()):
        settings = {run.id: settings_of(run, {}) for run in group}
        names = [name for name in differing(group, settings, benchmark) if name != RATE]
        for run in group:
            found.setdefault((variant, *(settings[run.id].get(name, "null") for name in names)), []).append(run)
    return list(found.values())


def _trained(section: Section, trial: RunResult) -> tuple[float, ...]:
    """The rates of the table's runs with the options of a trial."""
    rates = {
        float(run.training["lr"])
        for row in section.rows
        for run in row.runs
        if (run.variant, run.variant_config) == (trial.variant, trial.variant_config)
    }
    return tuple(sorted(rates))


def unequal(curves: Sequence[RateCurve]) -> str:
    """A sentence where rates were chosen from different numbers of trials; "" where they had the same."""
    numbers = sorted({curve.chosen_among for curve in curves})
    if len(numbers) < 2:
        return ""
    tried = f"{numbers[0]} to {numbers[-1]} trials to choose a learning rate by"
    return f"Not on equal terms: methods had {tried}, and more make their best better."


def nearest_reference(curve: RateCurve, curves: Sequence[RateCurve]) -> RateCurve | None:
    """LoRA's curve whose number of trained parameters is nearest; None where no LoRA has a best rate."""
    known = [other for other in curves if other.variant == REFERENCE and other.best]
    return min(known, key=lambda other: size_ratio(other.parameters, curve.parameters), default=None)


def size_ratio(first: int, second: int) -> float:
    """How many times as many parameters the larger of two sizes has; nothing trained counts as one parameter."""
    fewer, more = sorted(max(1, size) for size in (first, second))
    return more / fewer


def ratio(curve: RateCurve, curves: Sequence[RateCurve]) -> float | None:
    """The best rate of a curve divided by LoRA's at about its size; None where one of them is not known."""
    reference = nearest_reference(curve, curves)
    return None if curve.best is None or reference is None else curve.best / reference.best
