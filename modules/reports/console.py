"""A table as a person sees it in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from modules.reports.cells import (
    _first_cells,
    average_text,
    marked_last,
    published_text,
    score_text,
    seeds_text,
    span,
    start_mark,
    title,
)
from modules.reports.tables import Row, Section

# ---- console ----------------------------------------------------------------------------------------------------


def to_text(sections: Sequence[Section]) -> str:
    """A short table per section for 80 columns: the columns that have runs, each row's name on a line of its own."""
    return "\n\n".join(_section_text(section) for section in sections)


def _section_text(section: Section) -> str:
    shown = list(_first_cells(section))
    named = [("", [*(column.title for column in shown), "Avg"])]
    for last, row in marked_last(section.rows):
        cells = [row.cells.get(column.key) for column in shown]
        scores = [score_text(cell) + start_mark(cell) for cell in cells]
        named.append((_row_title(row), [*scores, average_text(row)]))
        for paper in section.beside(row.variant) if last else ():
            average = "" if paper.average is None else f"{paper.average:g}"
            name = f"published: {paper.method} on {paper.model} ({paper.source}), {paper.params}"
            named.append((name, [*(published_text(paper, column.key) for column in shown), average]))
    columns = len(shown) + any(average_text(row) for row in section.rows)  # no Avg beside rows that have none
    named = [(name, [cell.replace(" ", "") for cell in cells[:columns]]) for name, cells in named]
    widths = [max(len(cells[k]) for _, cells in named) for k in range(columns)]
    lines = [title(section)]
    for name, cells in named:
        lines += [name] if name else []
        lines.append(" ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    return "\n".join(lines)


def _row_title(row: Row) -> str:
    seeds = seeds_text(row)
    adapter, head = ([run.parameters[part] for run in row.runs] for part in ("adapter", "head"))
    counts = f"{span(adapter, lambda n: f'{n:,}')} + head {span(head, lambda n: f'{n:,}')}"
    return f"{row.variant} {row.label}".strip() + f" ({row.protocol}; seeds: {seeds}), {counts}"
