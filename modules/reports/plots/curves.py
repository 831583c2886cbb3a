"""Dev scores after each epoch."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from modules.reports.plots.layout import add_legend, grid_of, new_figure
from modules.reports.plots.style import MANY, rows_for_curves
from modules.reports.tables.section import Section
from modules.runs.results import finite_losses

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curves(section: Section) -> Figure:
    """A facet for each task: the dev metric after each epoch, as median and range over the seeds."""
    lengths = {run.task: len(run.epochs) for row in section.rows for run in row.runs if len(run.epochs) > 1}
    names = [task for task in section.benchmark.tasks if task in lengths]
    rows, across = grid_of(len(names))
    figure, axes = new_figure(section, "Dev score after each epoch", rows, across, (2.9, 2.3))
    shown = rows_for_curves(section)
    for ax, task in zip(axes, names, strict=False):
        for row, style in shown:
            by_epoch: dict[int, list[float]] = {}
            for run in row.by_task.get(task, ()):
                for epoch in run.epochs:
                    if epoch.get(run.metric) is not None and finite_losses(epoch):
                        by_epoch.setdefault(epoch["epoch"], []).append(100 * epoch[run.metric])
            x = sorted(by_epoch)
            middle = [statistics.median(by_epoch[k]) for k in x]
            ax.plot(x, middle, style.line, color=style.colour, label=style.label, lw=1.5)
            if any(len(values) > 1 for values in by_epoch.values()):
                low, high = ([pick(by_epoch[k]) for k in x] for pick in (min, max))
                ax.fill_between(x, low, high, color=style.colour, alpha=0.13, lw=0)
        metric = next(run.metric for row in section.rows for run in row.by_task.get(task, ()))
        ax.set_title(section.benchmark.tasks[task].title)
        ax.set_ylabel(section.benchmark.metric_words.get(metric, metric).split(" of ")[0] or metric, fontsize=8)
        ax.xaxis.get_major_locator().set_params(integer=True)
    for ax in axes[len(names) :]:
        ax.remove()
    note = "x: epoch; line: median over the seeds; band: their range"
    if len(shown) < len(section.rows):
        which = "the largest" if len(section.rows) > MANY else "the smallest and the largest"
        note += f"; of several sizes {which}"
    add_legend(figure, axes, note)
    return figure
