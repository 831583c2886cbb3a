"""A table for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from modules.reports.tables.cells import (
    adapter_text,
    average_text,
    first_cells,
    marked_last,
    published_average,
    published_text,
    score_text,
    seeds_text,
    span,
    start_mark,
    title,
    with_commas,
)
from modules.reports.tables.section import Row, Section


def to_text(sections: Sequence[Section]) -> str:
    """A short table per section: the columns that have runs, and each row's name on a separate line."""
    return "\n\n".join(_section_text(section) for section in sections)


def _section_text(section: Section) -> str:
    shown = list(first_cells(section))
    named = [("", [*(column.title for column in shown), "Avg"])]
    for last, row in marked_last(section.rows):
        cells = [row.cells.get(column.key) for column in shown]
        scores = [score_text(cell) + start_mark(cell) for cell in cells]
        named.append((_row_title(row), [*scores, average_text(row)]))
        for paper in section.published_of(row.variant) if last else ():
            name = f"published: {paper.method} on {paper.model} ({paper.source}), {paper.params}"
            named.append((name, [*(published_text(paper, column.key) for column in shown), published_average(paper)]))
    columns = len(shown) + any(average_text(row) for row in section.rows)  # without Avg where no row has one
    named = [(name, [cell.replace(" ", "") for cell in cells[:columns]]) for name, cells in named]
    widths = [max(len(cells[k]) for _, cells in named) for k in range(columns)]
    lines = [title(section)]
    for name, cells in named:
        lines += [name] if name else []
        lines.append(" ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    return "\n".join(lines)


def _row_title(row: Row) -> str:
    seeds = seeds_text(row)
    head = span([run.parameters["head"] for run in row.runs], with_commas)
    counts = f"{adapter_text(row)} + head {head}"
    return f"{row.variant} {row.label}".strip() + f" ({row.protocol}; seeds: {seeds}), {counts}"
