"""A task of a benchmark: what generic code needs to know of it. Imports nothing heavy, for the sake of `--help`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task. A benchmark whose tasks have further fields derives a class of its own.

    Attributes:
        name: in flags, configurations and result files: lower-case letters, digits and _.
        title: in tables and messages.
        metrics: names of all its scores.
        column: the metric of the table, which also picks the best epoch; higher is better. By default the first.
        eval_splits: the splits that are scored after each epoch; `val_dataloader()` keeps their order.
        fields: names of the texts of a row, in their order.
        labels: names of the classes, in the order of their numbers; none where a label is a score or a text.
    """

    name: str
    title: str
    metrics: tuple[str, ...] = ()
    column: str = ""
    eval_splits: tuple[str, ...] = ("validation",)
    fields: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.column and self.metrics:
            object.__setattr__(self, "column", self.metrics[0])
