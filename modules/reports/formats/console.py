"""A benchmark's table for a terminal: a line for each row, as wide as the terminal is."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from modules.reports.formats.text_table import text_table, width
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
from modules.reports.tables.published import PublishedRow
from modules.reports.tables.section import Row, Section, short_name


def to_text(sections: Sequence[Section], wide: int | None = None) -> str:
    """A table per section, of the columns that have runs; published rows where they are of the same backbone.

    Args:
        wide: characters of a line; the terminal's by default.
    """
    return "\n\n".join(_section_text(section, wide or width()) for section in sections)


def _section_text(section: Section, wide: int) -> str:
    protocols = list(dict.fromkeys(row.protocol for row in section.rows))
    columns = list(first_cells(section))
    average = any(average_text(row) for row in section.rows)
    lines = [["method", *(column.title for column in columns), *(["Avg"] if average else []), "seeds", "trained"]]
    papers: list[PublishedRow] = []
    for last, row in marked_last(section.rows):
        cells = [row.cells.get(column.key) for column in columns]
        name = " ".join(filter(None, [row.variant, row.label, f"({row.protocol})" if len(protocols) > 1 else ""]))
        scores = [score_text(cell) + start_mark(cell) for cell in cells]
        lines.append([name, *scores, *([average_text(row)] if average else []), seeds_text(row), adapter_text(row)])
        for paper in _of_this_backbone(section, row) if last else ():
            papers.append(paper)
            scores = [published_text(paper, column.key) for column in columns]
            name = f"published: {paper.method} ({paper.source})"
            lines.append([name, *scores, *([published_average(paper)] if average else []), "", paper.params or ""])
    protocol = f", protocol {protocols[0]}" if len(protocols) == 1 else ""
    notes = _notes(section, papers)
    return "\n".join(
        [_wrapped(title(section) + protocol, wide), text_table(lines, wide), *(_wrapped(n, wide) for n in notes)]
    )


def _of_this_backbone(section: Section, row: Row) -> list[PublishedRow]:
    name = short_name(section.backbone["name"])
    return [paper for paper in section.published_of(row.variant) if paper.model == name]


def _notes(section: Section, shown: Sequence[PublishedRow]) -> list[str]:
    heads = span([run.parameters["head"] for row in section.rows for run in row.runs], with_commas)
    spread = any(len(cell.runs) > 1 for row in section.rows for cell in row.cells.values())
    notes = [f"{section.benchmark.statistic} ± standard deviation over the seeds" if spread else ""]
    notes.append(f"trained: parameters of the adapter, without the head's {heads}")
    if any(cell.runs[0].init_from for row in section.rows for cell in row.cells.values()):
        notes.append("† starts from the MNLI run")
    if any(run.truncated for row in section.rows for run in row.runs):
        notes.append("truncated: Trainer options left out a part of the rows, which gives no score")
    if any(cell.diverged() for row in section.rows for cell in row.cells.values()):
        notes.append("diverged: a loss was no number, which gives no score")
    lines = ["; ".join(filter(None, notes))]
    if section.published and not shown:
        models = sorted({paper.model for paper in section.published})
        lines.append(f"the published rows are of other backbones ({', '.join(models)}): see the Markdown table")
    return lines


def _wrapped(text: str, wide: int) -> str:
    return textwrap.fill(text, wide, break_long_words=False, break_on_hyphens=False)
