"""The table of a section as HTML: to sort, to filter, with published rows beside ours."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

from modules.benchmarks.base import Column
from modules.reports.html.marks import Marked
from modules.reports.tables.cells import (
    adapter_text,
    average_text,
    first_cells,
    peak_mb,
    published_average,
    published_text,
    score_text,
    seeds_text,
    start_mark,
    step_ms,
)
from modules.reports.tables.published import PublishedRow
from modules.reports.tables.section import Section
from modules.reports.tables.significance import Comparison

Cell = tuple[str, float | None]
"""(text, number to sort by)."""

COSTS = ("Adapter parameters", "Step, ms", "Peak, MB", "Seeds", "Files")


def table(section: Section, marked: Sequence[Marked], comparisons: Sequence[Comparison], number: int) -> str:
    """The table of a section, in a box that scrolls on narrow screens.

    Args:
        comparisons: of the section's rows.
        number: of the section on the page.
    """
    benchmark, columns = section.benchmark, list(first_cells(section))
    averaged = any(average_text(one.row) for one in marked)
    titles = [*(column.title for column in columns), *(["Avg"] if averaged else [])]
    heads = ["Method", "Protocol", *titles, *COSTS]
    winners = {c.winner for c in comparisons if len(c.columns) > 1}
    lines = []
    for place, one in enumerate(marked):
        row = one.row
        scores: list[Cell] = []
        for column in columns:
            cell = row.cells.get(column.key)
            text = score_text(cell, row.unequal) + start_mark(cell)
            scores.append((text, None if cell is None or cell.fault() else cell.centre()))
        if averaged:
            average = row.average()
            scores.append((average_text(row), None if average is None or math.isnan(average) else average))
        parameters = max(run.parameters["adapter"] for run in row.runs)
        times = [run.cost["step_ms"] for run in row.runs if run.cost.get("step_ms")]
        peaks = [run.cost["peak_memory_mb"] for run in row.runs if run.cost.get("peak_memory_mb")]
        costs = [(adapter_text(row), parameters), (step_ms(row.runs), min(times, default=None))]
        costs += [(peak_mb(row.runs), max(peaks, default=None)), (seeds_text(row), len(row.runs))]
        faults = any(cell.fault() for cell in row.cells.values())
        lines.append(_our_row(one, scores + costs, place in winners, faults))
    lines += [_published_row(paper, columns, averaged) for paper in _all_published(section)]
    head = "".join(f'<th scope="col" aria-sort="none"><button type="button">{_e(name)}</button></th>' for name in heads)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="table, scrolls sideways">'
        f'<table id="table-{number}" class="results"><caption>{_e(benchmark.reading)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _all_published(section: Section) -> Iterable[PublishedRow]:
    for variant in dict.fromkeys(row.variant for row in section.rows):
        yield from section.published_of(variant)


def _our_row(one: Marked, cells: Sequence[Cell], winner: bool, faults: bool) -> str:
    row = one.row
    name = f"<b>{_e(row.variant)}</b>" if winner else _e(row.variant)
    label = f' <span class="label">{_e(row.label)}</span>' if row.label else ""
    dot = f'<span class="dot" style="background:{_e(one.colour)}"></span>'
    links = " ".join(f'<a href="runs/{_e(run.id)}.json">{_e(run.task)} {run.seed}</a>' for run in row.runs)
    files = f"<details><summary>{len(row.runs)}</summary>{links}</details>"
    texts = "".join(map(_cell, cells))
    return (
        f'<tr class="ours{" fault" if faults else ""}" data-row="{_e(one.name)}">'
        f'<th scope="row">{dot}{name}{label}</th><td>{_e(row.protocol)}</td>{texts}'
        f'<td data-value="{len(row.runs)}">{files}</td></tr>'
    )


def _published_row(row: PublishedRow, columns: Sequence[Column], averaged: bool) -> str:
    cells: list[Cell] = []
    for column in columns:
        text = published_text(row, column.key)
        score = row.scores.get(column.key)
        cells.append((text, score if isinstance(score, (int, float)) else None))
    if averaged:
        cells.append((published_average(row), row.average))
    origin = row.source + (", copied there" if row.mark == "copied" else "")
    blanks = "<td></td>" * (len(COSTS) - 1)
    return (
        f'<tr class="published"><th scope="row"><span class="tag">published</span> {_e(f"{row.method} on {row.model}")}'
        f"</th><td>{_e(origin)}</td>{''.join(map(_cell, cells))}<td>{_e(row.params or '')}</td>{blanks}</tr>"
    )


def _cell(cell: Cell) -> str:
    text, value = cell
    text = _e(text).replace(" ±", "&nbsp;±")
    return f"<td>{text}</td>" if value is None else f'<td data-value="{value:.6g}">{text}</td>'


def _e(text: str) -> str:
    return html.escape(text)
