"""Which setting of a row is trained: the best of those that were tried on another seed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from modules.benchmarks.base import settings_of
from modules.comparison.comparison import Comparison, Row
from modules.comparison.progress import told
from modules.comparison.space import Point, drawn, grid, words
from modules.comparison.trials import Trials, best, faults, scored, trial
from modules.runs.config import RunConfig


def points(comparison: Comparison, row: Row) -> list[Point]:
    """The points that a grid or a random search tries."""
    rule = comparison.content.tune
    return grid(row.space) if rule.search == "grid" else drawn(row.space, rule.trials, rule.trained[0])


def wanted(comparison: Comparison, row: Row) -> int:
    """How many trials a row is to have."""
    rule = comparison.content.tune
    return rule.trials if rule.search == "optuna" else len(points(comparison, row))


def search(comparison: Comparison, rows: list[Row]) -> tuple[Trials, int]:
    """(the trials of each row that has something to choose, exit code)."""
    rows = [row for row in rows if row.space]
    if not rows:
        return {}, 0
    if comparison.content.tune.search == "optuna":
        from modules.comparison.optuna_study import search as ask_and_tell

        return ask_and_tell(comparison, rows)
    trials = {row.name: [trial(comparison, row, point) for point in points(comparison, row)] for row in rows}
    tried = {name: [run for each in own for run in each.runs] for name, own in trials.items()}
    comparison.say_rule(tried)
    runs = [run for own in tried.values() for run in own]
    with told(comparison, trials):
        code = comparison.carry_out(runs, comparison.tuning)
    return {name: [scored(comparison, each) for each in own] for name, own in trials.items()}, code


def choose(comparison: Comparison, rows: list[Row], trials: Trials) -> dict[str, Point]:
    """The chosen point of each row; one whose trials are not complete is left out, and named."""
    chosen: dict[str, Point] = {}
    for row in rows:
        if not row.space:
            chosen[row.name] = {}
            continue
        done = [each for each in trials.get(row.name, ()) if each.done]
        number = wanted(comparison, row)
        if len(done) >= number and (found := best(done)):
            chosen[row.name] = found.point
        else:
            whole = len(done) >= number
            why = f"no setting has a score: {faults(done)}" if whole else f"{len(done)} of {number} settings tried"
            print(f"{row.name} is left out: {why}", flush=True)
    return chosen


def show_plan(comparison: Comparison, rows: list[Row]) -> int:
    """Say which runs are missing, row by row, and their steps; nothing trains or is written. The exit code."""
    searched = [row for row in rows if row.space]
    if comparison.content.tune and comparison.content.tune.search == "optuna":
        from modules.comparison.optuna_study import begun

        trials = {row.name: begun(comparison, row) for row in searched}
    else:
        trials = {row.name: [trial(comparison, row, p) for p in points(comparison, row)] for row in searched}
    runs = {name: [(run, each.point) for each in own for run in each.runs] for name, own in trials.items()}
    _show(comparison, runs, comparison.tuning)
    for row in searched:
        if more := wanted(comparison, row) - len(trials[row.name]):
            example = trial(comparison, row, {each.key: each.examples[0] for each in row.space})
            steps = sum(comparison.steps(run) for run in example.runs)
            print(f"  {row.name}: Optuna chooses {more} more settings, of about {steps:,} steps each", flush=True)
    tried, runs = {run.id for own in runs.values() for run, _ in own}, {}
    for row in (row for row in rows if row.seeds):  # a row that is not tuned yet counts with whatever setting
        top = best(trials.get(row.name, []))
        point = top.point if top else {each.key: each.examples[0] for each in row.space}
        runs[row.name] = [(run, point) for run in comparison.runs(row, point) if run.id not in tried]
    _show(comparison, runs, comparison.results_dir)
    return 0


def _show(comparison: Comparison, runs: dict[str, list[tuple[RunConfig, Point]]], folder: Path) -> None:
    about = {run.id: (name, point) for name, own in runs.items() for run, point in own}
    total = Counter()
    for group in comparison.missing([run for own in runs.values() for run, _ in own], folder):
        first, steps = group[0], comparison.steps(group[0])
        total.update(groups=1, runs=len(group), steps=steps)
        seeds = ",".join(dict.fromkeys(str(run.seed) for run in group))
        name, _ = about[first.id]
        how = "trained as a trial, to be scored" if first.trained_as else f"{steps:,} steps"
        said = " and ".join(dict.fromkeys(words(about[run.id][1]) or f"lr={settings_of(run).lr:g}" for run in group))
        print(f"  {first.task} {name} {said} seed {seeds}: {how}")
    print(f"  {total['runs']} runs are missing, {total['steps']:,} steps if what is stacked counts once", flush=True)
