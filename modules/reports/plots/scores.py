"""Scores of every column and row, with all seeds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from modules.reports.plots.layout import grid_of, new_figure, spread_note, window
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
    row_styles, arrows = styles(section), False
    for number, (ax, column) in enumerate(zip(axes, columns, strict=False)):
        cells = {place: cell for place, row in enumerate(section.rows) if (cell := row.cells.get(column.key))}
        lowest, highest = window([cell.centre() for cell in cells.values() if not cell.fault()] or [0.0])
        left_out = False
        for place, cell in cells.items():
            if cell.fault() or cell.centre() >= lowest:
                _dots(ax, cell, -place, row_styles[place])
            else:
                _off_the_axis(ax, cell, -place, row_styles[place])
                left_out = True
        if left_out:
            ax.set_xlim(left=lowest - 0.3 * (highest - lowest))
        arrows |= left_out
        ax.set_title(column.title)
        shown = [style.label for style in row_styles] if number % across == 0 else []
        ax.set_yticks([-place for place in range(len(row_styles))], shown or [""] * len(row_styles))
        ax.set_ylim(-len(row_styles) + 0.4, 0.6)
    for ax in axes[len(columns) :]:
        ax.remove()
    note = f"large: {section.benchmark.statistic}; small: each seed; {spread_note(section)}"
    note += "; arrows: scores off the axis" if arrows else ""
    figure.supxlabel(note, fontsize=8, color="#555555")
    return figure


def _dots(ax: Axes, cell: Cell, place: float, style: Style) -> None:
    values = [value for value in cell.values() if not math.isnan(value)]
    if len(values) > 1:
        ax.plot(values, [place] * len(values), ".", color=style.colour, alpha=0.45, ms=5, mec="none")
    if not cell.fault():
        marks = style.drawn() | {"capsize": 2.5, "ms": 5.5, "lw": 1.2}
        ax.errorbar(cell.centre(), place, xerr=cell.spread(), **marks)


def _off_the_axis(ax: Axes, cell: Cell, place: float, style: Style) -> None:
    where = ax.get_yaxis_transform()  # x from 0 at the left edge to 1 at the right one
    ax.plot(0.03, place, "<", color=style.colour, ms=4, transform=where)
    ax.text(0.06, place, f"{cell.centre():.{cell.column.digits}f}", fontsize=7, va="center", transform=where)
