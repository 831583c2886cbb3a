"""The papers' tables with our rows: every published row, our runs of it, and the commands of the missing ones.

For a table whose backbone nobody can run, our runs on other backbones are shown in a table that names them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from modules.reports.formats.latex import environment, escape
from modules.reports.papers.paper_csv import paper_csv
from modules.reports.papers.paper_lines import Line, about, heading, table_lines
from modules.reports.papers.paper_markdown import paper_markdown
from modules.reports.papers.paper_rows import PaperRow, ours, paper_rows
from modules.reports.tables.build import all_sections
from modules.reports.tables.published import load_all
from modules.reports.tables.section import Section
from modules.runs.results import RunResult


def paper_tables(folder: str | Path, results: Iterable[RunResult]) -> dict[str, str]:
    """Texts of all published tables by file name: Markdown, CSV and LaTeX of each.

    Args:
        folder: of the published figures.
    """
    sections = all_sections(folder, results)
    names = dict.fromkeys(row.table for row in load_all(folder))
    return {file: text for name in sorted(names) for file, text in paper_table(folder, name, sections).items()}


def paper_table(folder: str | Path, name: str, sections: Sequence[Section]) -> dict[str, str]:
    """Texts of a published table, such as lora-2, by file name; runs on generated tasks are in none of them.

    Raises:
        UserError: there is no such table.
    """
    sections = [section for section in sections if section.data["source"] != "embedded"]
    rows = paper_rows(folder, name)
    our_rows = {row.number: ours(row, rows, sections) for row in rows}
    head, lines = table_lines(rows, our_rows)
    return {
        f"{name}.md": paper_markdown(rows, our_rows, head, lines, sections),
        f"{name}.csv": paper_csv(rows, our_rows),
        f"{name}.tex": _latex(rows, head, lines),
    }


def _latex(rows: Sequence[PaperRow], head: list[str], lines: Sequence[Line]) -> str:
    text = [[escape(cell) if line.row else _italic(cell) for cell in line.cells] for line in lines]
    caption = f"{heading(rows)} (in italics) and our runs of its rows. {about(rows)}".replace("`", "")
    return "% \\usepackage{booktabs}\n\n" + environment(head, text, 4, caption) + "\n"


def _italic(cell: str) -> str:
    return rf"\textit{{{escape(cell)}}}" if cell else ""
