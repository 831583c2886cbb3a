"""Scores of every column and row, with all seeds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from modules.reports.plots.layout import grid_of, new_figure, spread_note
from modules.reports.plots.style import Style, styles
from modules.reports.tables.section import Cell, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def scores(section: Section) -> Figure:
    """A facet for each column: each row's seeds (small), its centre and its spread."""
    columns = [c for c in section.columns if not c.alternative and any(c.key in row.cells for row in section.rows)]
    rows, across = grid_of(len(columns))
    figure, axes = new_figure(section, "Scores", rows, across, (2.9, 0.8 + 0.24 * len(section.rows)))
    row_styles = styles(section)
    for number, (ax, column) in enumerate(zip(axes, columns, strict=False)):
        for place, (row, style) in enumerate(zip(section.rows, row_styles, strict=True)):
            if cell := row.cells.get(column.key):
                _dots(ax, cell, -place, style)
        ax.set_title(column.title)
        shown = [style.label for style in row_styles] if number % across == 0 else []
        ax.set_yticks([-place for place in range(len(row_styles))], shown or [""] * len(row_styles))
        ax.set_ylim(-len(row_styles) + 0.4, 0.6)
    for ax in axes[len(columns) :]:
        ax.remove()
    note = f"large: {section.benchmark.statistic}; small: each seed; {spread_note(section)}"
    figure.supxlabel(note, fontsize=8, color="#555555")
    return figure


def _dots(ax: Axes, cell: Cell, place: float, style: Style) -> None:
    values = [value for value in cell.values() if not math.isnan(value)]
    if len(values) > 1:
        ax.plot(values, [place] * len(values), ".", color=style.colour, alpha=0.45, ms=5, mec="none")
    if not cell.fault():
        marks = {"fmt": style.marker, "color": style.colour, "capsize": 2.5, "ms": 5.5, "lw": 1.2}
        ax.errorbar(cell.centre(), place, xerr=cell.spread(), **marks)
