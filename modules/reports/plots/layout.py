"""The layout that the plots share: a figure of facets with a title, a legend and a note."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from modules.benchmarks.base import Column
from modules.reports.tables.cells import title
from modules.reports.tables.section import Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAR = 0.5
"""Low scores leave the axis where the gap above them is at least so much of the others' range."""


def new_figure(
    section: Section, subject: str, rows: int, columns: int, size: tuple[float, float]
) -> tuple[Figure, list[Axes]]:
    """(figure, its facets row by row), titled with its subject, the backbone and the data.

    Args:
        size: (width, height) of a facet in inches.
    """
    from matplotlib.figure import Figure

    width, height = size[0] * columns, size[1] * rows
    lines = textwrap.wrap(f"{subject}: {title(section)}", max(40, int(width * 13)))
    figure = Figure(figsize=(width, height + 0.2 * len(lines) + 0.3), layout="constrained")
    figure.suptitle("\n".join(lines), fontsize=11)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def add_legend(figure: Figure, axes: Sequence[Axes], note: str) -> None:
    """Add a legend of all entries below the figure, under a note on how to read the figure."""
    entries: dict[str, object] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    width = max((len(label) for label in entries), default=1)
    columns = max(1, min(len(entries), int(figure.get_figwidth() * 11 / (width + 7))))
    figure.set_figheight(figure.get_figheight() + 0.19 * math.ceil(len(entries) / columns))
    note = textwrap.fill(note, int(figure.get_figwidth() * 17))
    figure.set_figheight(figure.get_figheight() + 0.13 * note.count("\n"))
    place = {"loc": "outside lower center", "ncols": columns, "title": note, "title_fontsize": 8}
    figure.legend(list(entries.values()), list(entries), **place).get_title().set_color("#555555")


def grid_of(number: int) -> tuple[int, int]:
    """(rows, columns) for a number of facets: one row for up to three, else at most four columns."""
    columns = number if number <= 3 else math.ceil(number / math.ceil(number / 4))
    return math.ceil(number / columns), columns


def summed_columns(section: Section) -> tuple[Column, ...]:
    """The columns whose mean stands for a row: those that all rows fill, or the first where a mean means nothing."""
    shared = [c for c in section.benchmark.columns if all(c.key in row.cells for row in section.rows)]
    return tuple(shared if section.benchmark.average else shared[:1])


def name_of(columns: Sequence[Column]) -> str:
    """Name of the mean of some columns."""
    titles = [column.title for column in columns]
    if len(titles) == 1:
        return titles[0]
    return f"mean of {', '.join(titles)}" if len(titles) < 6 else f"mean of {len(titles)} tasks"


def spread_note(section: Section) -> str:
    """A note on the error bars and the number of seeds."""
    counts = sorted({len(cell.runs) for row in section.rows for cell in row.cells.values()})
    if counts[-1] == 1:
        return "one seed, so there is no spread to show"
    seeds = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    return f"bars: standard deviation over the seeds (n-1); n = {seeds}"


def window(scores: Sequence[float]) -> tuple[float, float]:
    """(lowest, highest) score of an axis.

    Up to a third of the scores, the lowest ones, are left out below a gap (`FAR`): a few failures would press the rest
    together.
    """
    ordered = sorted(scores)
    for left_out in range(len(ordered) // 3, 0, -1):
        if ordered[left_out] - ordered[left_out - 1] >= FAR * (ordered[-1] - ordered[left_out]) > 0:
            return ordered[left_out], ordered[-1]
    return ordered[0], ordered[-1]
