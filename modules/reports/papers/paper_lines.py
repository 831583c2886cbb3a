"""The lines of a published table with our rows below the paper's: what its Markdown and its LaTeX share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modules.reports.papers.paper_rows import PaperRow
from modules.reports.tables.cells import (
    adapter_text,
    average_text,
    published_average,
    published_text,
    score_text,
    seeds_text,
    start_mark,
)
from modules.reports.tables.section import Row, Section
from modules.runs.results import RunResult

TITLES = {
    "wikisql": "WikiSQL", "mnli": "MNLI", "mnli_m": "MNLI-m", "samsum_r1": "SAMSum R1", "samsum_r2": "SAMSum R2",
    "samsum_rl": "SAMSum RL", "glue": "GLUE",
    **{f"sni_{size.lower()}": f"SuperNI T5-{size}" for size in ("80M", "250M", "780M", "3B", "11B")},
    **{f"{size}b_alpaca": f"{size}B Alpaca" for size in (7, 13, 33, 65)},
    **{f"{size}b_flan": f"{size}B FLAN v2" for size in (7, 13, 33, 65)},
}  # fmt: skip
"""Headings of columns that belong to no benchmark of this project."""

OurRows = Mapping[int, Sequence[tuple[Section, Row]]]
"""Our rows of each published row, by its number."""


@dataclass(frozen=True)
class Line:
    """A line of a table and its source.

    Attributes:
        number: of the published row that it belongs to.
        section, row: of a line with our results; None in a published line, and where we have no results.
    """

    number: int
    cells: tuple[str, ...]
    paper: PaperRow
    section: Section | None = None
    row: Row | None = None


def columns_of(rows: Sequence[PaperRow]) -> dict[str, str]:
    """Heading of each column by its key, in the order of the benchmark or else of the file."""
    present = dict.fromkeys(key for row in rows for key in row.published.scores)
    if benchmark := rows[0].benchmark:
        return {column.key: column.title for column in benchmark.columns if column.key in present}
    return {key: TITLES.get(key, key) for key in present}


def table_lines(rows: Sequence[PaperRow], ours: OurRows) -> tuple[list[str], list[Line]]:
    """(heading, lines): each published row, then our rows of it, or an empty line where we could run it."""
    columns = columns_of(rows)
    average = any(row.published.average is not None for row in rows)
    head = ["", "Whose", "Method", "Protocol", *columns.values(), *(["Avg"] if average else []), "Trained", "Seeds"]
    lines = []
    for paper in rows:
        row = paper.published
        mark = "published, copied there" if row.mark == "copied" else "published"
        scores = [published_text(row, key) for key in columns]
        scores += [published_average(row)] if average else []
        method = f"{row.method} on {row.model}"
        cells = (f"[{paper.number}]", mark, method, row.source, *scores, row.params or "", "")
        lines.append(Line(paper.number, cells, paper))
        for section, our_row in ours[paper.number]:
            lines.append(Line(paper.number, _our_cells(section, our_row, columns, average), paper, section, our_row))
        if paper.recipes and not ours[paper.number]:
            named = ("", "ours", row.variant or "", str(row.protocol))
            empty = [""] * (len(head) - len(named))
            lines.append(Line(paper.number, (*named, *empty), paper))
    return head, lines


def _our_cells(section: Section, row: Row, columns: dict[str, str], average: bool) -> tuple[str, ...]:
    scores = []
    for key in columns:
        cell = row.cells.get(key)
        subset = "‡" if cell and is_subset(section, cell.runs) else ""
        scores.append(score_text(cell, row.unequal) + start_mark(cell) + subset)
    label = f"{row.variant} {row.label}".strip()
    means = [average_text(row)] if average else []
    return ("", "ours", label, row.protocol, *scores, *means, adapter_text(row), seeds_text(row))


def is_subset(section: Section, runs: Sequence[RunResult]) -> bool:
    """Whether the runs are of fewer rows than the official splits have."""
    sizes, benchmark = runs[0].data["sizes"], section.benchmark
    return (sizes.get("train", 0), benchmark.scored_rows(sizes)) != benchmark.official_rows.get(runs[0].task)


def heading(rows: Sequence[PaperRow]) -> str:
    """Title of the table, such as `LoRA, Table 2`."""
    return rows[0].published.source if rows[0].published.table != "third-party" else "GLUE rows of other papers"


def about(rows: Sequence[PaperRow]) -> str:
    """How to read the table: its paper, split and statistic, and ours."""
    first, benchmark = rows[0].published, rows[0].benchmark
    same_paper = len({row.published.arxiv for row in rows}) == 1
    link = f" (arXiv:{first.arxiv})" if same_paper and first.arxiv else ""
    words = f"Published: {first.paper}{link}; {first.split}; {first.statistic}."
    if benchmark:
        epoch = "the scored epoch" if benchmark.columns[0].metric else "the best epoch of each run"
        words += (
            f" Ours: {benchmark.statistic} over the seeds ± standard deviation (n-1) of {epoch}, on "
            f"the {benchmark.scored_on} set, of the row's own backbone; an empty cell has no run. Trained: parameters "
            "of the adapter, without the head. † starts from the MNLI run; ‡ on fewer rows than the official data."
        )
    if benchmark and benchmark.published_scores:
        words += f" {benchmark.published_scores}"
    return words
