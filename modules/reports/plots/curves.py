"""Dev scores after each epoch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from modules.reports.plots.layout import add_legend, grid_of, new_figure
from modules.reports.plots.style import MANY, Style, rows_for_curves
from modules.reports.tables.section import Row, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOGETHER = 6
"""The most curves of a facet, the reference left out: more cannot be followed."""
REFERENCE = "lora"
"""The method whose curve is grey in the facets of the others."""

Curve = dict[int, list[float]]
"""The score of each seed, in percent, by epoch."""


def curves(section: Section) -> Figure:
    """Facets of the dev metric after each epoch, as median and range over the seeds: one for each task, or for each
    task and every few methods."""
    lengths = {run.task: len(run.epochs) for row in section.rows for run in row.runs if len(run.epochs) > 1}
    pairs = rows_for_curves(section)
    names = [task for task in section.benchmark.tasks if any(row.by_epoch(task) for row, _ in pairs)]
    shown = [pair for pair in pairs if any(pair[0].by_epoch(task) for task in names)]
    each = math.ceil(len(shown) / math.ceil(len(shown) / TOGETHER))
    bundles = [shown[start : start + each] for start in range(0, len(shown), each)]
    rows, across = (len(bundles), len(names)) if len(bundles) > 1 else grid_of(len(names))
    figure, axes = new_figure(section, "Dev score after each epoch", rows, across, (max(2.4, 4.8 / across), 1.75))
    facets = [(bundle, task) for bundle in bundles for task in names]
    for number, (ax, (bundle, task)) in enumerate(zip(axes, facets, strict=False)):
        _facet(ax, task, bundle, shown)
        if number < len(names):
            ax.set_title(section.benchmark.tasks[task].title)
        ax.set_ylabel(_metric(section, task), fontsize=8)
        ax.set_xlim(1, lengths[task])
        ax.set_ylim(*_range(task, shown))
        ax.xaxis.get_major_locator().set_params(integer=True)
        if number + across >= len(facets):
            ax.set_xlabel("epoch", fontsize=8)
    for ax in axes[len(facets) :]:
        ax.remove()
    add_legend(figure, axes, "; ".join(_notes(section, names, shown, len(bundles))))
    return figure


def _facet(ax: Axes, task: str, bundle: Sequence[tuple[Row, Style]], shown: Sequence[tuple[Row, Style]]) -> None:
    for row, _ in shown:
        if row.variant == REFERENCE and all(row is not own for own, _ in bundle):
            ax.plot(*_middle(row.by_epoch(task)), "-", color="#bbbbbb", lw=1.2, zorder=1)
    for row, style in bundle:
        curve = row.by_epoch(task)
        x, middle = _middle(curve)
        marks = style.drawn() | {"ls": style.line, "ms": 3.5, "lw": 1.3, "markevery": max(1, len(x) // 6)}
        ax.plot(x, middle, label=style.label, **marks)
        if any(len(values) > 1 for values in curve.values()):
            low, high = ([pick(curve[k]) for k in x] for pick in (min, max))
            ax.fill_between(x, low, high, color=style.colour, alpha=0.12, lw=0)


def _metric(section: Section, task: str) -> str:
    """The name of a task's dev metric."""
    metric = next(run.metric for row in section.rows for run in row.by_task.get(task, ()))
    named = [column.title for column in section.benchmark.columns if column.metric == metric]
    return named[0] if named else section.benchmark.metric_words.get(metric, metric)


def _middle(curve: Curve) -> tuple[list[int], list[float]]:
    return list(curve), [statistics.median(values) for values in curve.values()]


def _range(task: str, shown: Sequence[tuple[Row, Style]]) -> tuple[float, float]:
    """The score axis of a task, the same for all methods: without the lowest sixth of all medians: what learns
    nothing, and first epochs, would press the rest together."""
    medians = sorted(value for row, _ in shown for value in _middle(row.by_epoch(task))[1])
    low, high = medians[len(medians) // 6], medians[-1]
    margin = 0.08 * (high - low) or 1.0
    return low - margin, high + 2 * margin


def _notes(section: Section, names: Sequence[str], shown: Sequence[tuple[Row, Style]], bundles: int) -> list[str]:
    notes = ["line: median over the seeds; band: their range; the lowest sixth of all values is off the axis"]
    if bundles > 1 and any(row.variant == REFERENCE for row, _ in shown):
        notes.append(f"grey: {REFERENCE}, for comparison")
    if len({style.group for _, style in shown}) < len(section.rows) != len(shown):
        notes.append(
            f"of several sizes {'the largest' if len(section.rows) > MANY else 'the smallest and the largest'}"
        )
    there = {task for row in section.rows for task in row.by_task} - set(names)
    if alone := [task.title for name, task in section.benchmark.tasks.items() if name in there]:
        notes.append(f"{', '.join(alone)}: one epoch{_or_no_score(section)}, so no curve")
    return notes


def _or_no_score(section: Section) -> str:
    return " or no score" if any(run.fault for row in section.rows for run in row.runs) else ""
