"""Benchmarks as result files know them: for tables where the tasks are a person's own, or the code is not here."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from modules.benchmarks.base import Benchmark, Column
from modules.benchmarks.outside import known
from modules.data.task import Task
from modules.runs.results import RunResult
from modules.runs.score_form import form


class Recorded(Benchmark):
    """A benchmark whose code is not here: nothing of it can be run."""

    hub_model, model_title = "", "RoBERTa or GPT-2"

    def __init__(self, name: str) -> None:
        self.name, self.tasks = name, {}

    def seen_in(self, results: Sequence[RunResult]) -> Benchmark:
        """See `seen`."""
        return seen(self, results)


def as_recorded(name: str) -> Benchmark:
    """The benchmark of a name in result files, none of whose code is loaded at a file's word."""
    return known(name) or Recorded(name)


def seen(own: Benchmark, results: Sequence[RunResult]) -> Benchmark:
    """A benchmark with the tasks of results, and a column for the test set of each task that has been scored on one."""
    own, metrics = copy.copy(own), {run.task: run.metric for run in sorted(results, key=lambda run: run.task)}
    unknown = {name: Task(name=name, title=name, metrics=(metric,)) for name, metric in metrics.items()}
    own.tasks = {name: own.tasks.get(name, unknown[name]) for name in metrics}
    tested = {run.task for run in results if run.test}
    own.columns = tuple(c for task in own.tasks.values() for c in _columns(task, metrics[task.name], tested))
    return own


def _columns(task: Task, metric: str, tested: set[str]) -> list[Column]:
    """The dev column of a task, and that of its test set; an error keeps its unit."""
    scale, digits = form(metric)
    columns = [Column(task.name, task.name, task.title, scale=scale, digits=digits)]
    if task.name in tested:
        columns.append(Column(f"{task.name}_test", task.name, f"{task.title} test", metric, scale, digits))
    return columns
