"""Rows that the code of a benchmark gives, with their labels as numbers."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, Any

from modules.benchmarks.text.task import TextTask
from modules.data.source import Source, Split
from variants.errors import UserError

if TYPE_CHECKING:
    from modules.benchmarks.text import TextBenchmark


class RowsSource(Source):
    """What `TextBenchmark.rows` gives, checked."""

    kind = "code"

    def __init__(self, benchmark: TextBenchmark) -> None:
        super().__init__()
        self.benchmark, self.name, self.restore = benchmark, benchmark.name, f"see {type(benchmark).__name__}.rows"

    def _read(self, task: TextTask) -> dict[str, Split]:
        splits = self.benchmark.rows(task)
        if missing := [name for name in ("train", *task.eval_splits) if name not in splits]:
            raise UserError(f"{self.name}: {task.title}: rows gives no split {missing[0]!r}, only {', '.join(splits)}")
        return {name: self._split(split, task, f"{self.name}: {task.title} {name}") for name, split in splits.items()}

    def _split(self, split: Split, task: TextTask, where: str) -> Split:
        if len(split.texts) != len(split.labels):
            raise UserError(f"{where}: {len(split.texts)} rows of texts and {len(split.labels)} labels")
        texts = [(row,) if isinstance(row, str) else tuple(row) for row in split.texts]
        for number, row in enumerate(texts, 1):
            if len(row) != len(task.fields) or not all(isinstance(text, str) for text in row):
                raise UserError(
                    f"{where}: row {number} must have a text for {', '.join(task.fields)}, not {row!r:.200}"
                )
        labels = [label_of(value, task, f"{where}: row {number}") for number, value in enumerate(split.labels, 1)]
        return Split(texts, labels)


def label_of(value: Any, task: TextTask, where: str) -> Any:
    """A label as a `Split` holds it: a class's number, a score, or a 1.0 or 0.0 for each of any number of labels.

    Raises:
        UserError: it is none of the task's; the line begins with `where`.
    """
    if task.kind == "multi":
        chosen = {label_of(each, _single(task), where) for each in value}
        return [float(number in chosen) for number in range(task.num_labels)]
    if task.kind == "score":
        if isinstance(value, numbers.Real) and value == value and abs(value) < 1e9:
            return float(value)
        raise UserError(f"{where}: {value!r} is no score")
    if isinstance(value, str) and value in task.labels:
        return task.labels.index(value)
    if isinstance(value, numbers.Integral) and not isinstance(value, bool) and 0 <= value < task.num_labels:
        return int(value)
    raise UserError(f"{where}: the label {value!r} is none of {', '.join(task.labels)}")


def _single(task: TextTask) -> TextTask:
    return TextTask(name=task.name, title=task.title, fields=task.fields, labels=task.labels)
