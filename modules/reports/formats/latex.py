"""A benchmark's table as LaTeX (booktabs): the rows of the Markdown, one table environment per backbone and data."""

from __future__ import annotations

from collections.abc import Sequence

from modules.reports.tables.cells import (
    adapter_text,
    average_text,
    marked_last,
    published_average,
    published_text,
    score_text,
    seeds_text,
    start_mark,
    title,
)
from modules.reports.tables.published import PublishedRow
from modules.reports.tables.rank_study import RankStudy, about, find, grid
from modules.reports.tables.section import Row, Section
from modules.reports.tables.significance import compare

ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
}
SIGNS = {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "†": r"$^\dagger$", "·": r"$\cdot$"}


def escape(text: str) -> str:
    """Plain text as LaTeX; the marks of the tables (±, †, ·) become commands."""
    return "".join((ESCAPES | SIGNS).get(letter, letter) for letter in text)


def to_latex(sections: Sequence[Section]) -> str:
    """A table for every section and for each of its rank studies. Needs the LaTeX package `booktabs`."""
    parts = ["% \\usepackage{booktabs}"]
    for section in sections:
        parts.append(_table(section))
        parts += [_rank_table(section, study) for study in find(section)]
    return "\n\n".join(parts) + "\n"


def _table(section: Section) -> str:
    benchmark = section.benchmark
    titles = [*(column.title for column in section.columns), *(["Avg"] if benchmark.average else [])]
    winners = {comparison.winner for comparison in compare(section) if len(comparison.columns) > 1}
    lines = []
    for number, (last, row) in enumerate(marked_last(section.rows)):
        lines.append(_ours(row, section, number in winners))
        lines += [_published(paper, section) for paper in section.published_of(row.variant)] if last else []
    return environment(["Method", "Protocol", *titles, "Trained", "Seeds"], lines, 2, _caption(section))


def _caption(section: Section) -> str:
    benchmark = section.benchmark
    epoch = "scored epoch" if benchmark.columns[0].metric else "best epoch"
    words = (
        f"{title(section)}. Ours: {benchmark.statistic} over the seeds of each run's {epoch} on the "
        f"{benchmark.scored_on} set ± standard deviation (n-1). Trained: parameters of the adapter, without the head. "
        "Bold: above every other row by the paired test over tasks and seeds; no bold row: the spread supports none. "
        "† starts from the MNLI run."
    )
    if section.published:
        words += (
            " In italics: the papers' own figures on the model they name, * copied there from earlier work; not "
            "comparable unless model and protocol agree."
        )
    return words


def _ours(row: Row, section: Section, winner: bool) -> list[str]:
    cells = [row.cells.get(column.key) for column in section.columns]
    name = escape(f"{row.variant} {row.label}".strip())
    scores = [escape(score_text(cell, row.unequal) + start_mark(cell)) for cell in cells]
    average = [average_text(row)] if section.benchmark.average else []
    return [
        rf"\textbf{{{name}}}" if winner else name,
        escape(row.protocol),
        *scores,
        *average,
        adapter_text(row),
        seeds_text(row),
    ]


def _published(row: PublishedRow, section: Section) -> list[str]:
    scores = [published_text(row, column.key) for column in section.columns]
    scores += [published_average(row)] if section.benchmark.average else []
    mark = "*" if row.mark == "copied" else ""
    words = [f"{row.method} on {row.model}", row.source + mark, *scores, row.params or "", ""]
    return [rf"\textit{{{escape(word)}}}" if word else "" for word in words]


def _rank_table(section: Section, study: RankStudy) -> str:
    head, *lines = grid(study, section)
    caption = (
        f"LoRA's rank and adapted matrices: {title(section)}, protocol {study.protocol}. "
        f"{section.benchmark.statistic.capitalize()} over the seeds ± standard deviation (n-1); "
        f"a mean's spread is that of the seeds' means. {about(study)}".rstrip()
    )
    return environment(head, [[escape(cell) for cell in line] for line in lines], 2, caption)


def environment(head: Sequence[str], lines: Sequence[Sequence[str]], words: int, caption: str) -> str:
    """A `table*` environment.

    Args:
        head, caption: plain text.
        lines: cells that are LaTeX already.
        words: number of columns of text, on the left; the other columns are numbers.
    """
    rows = [" & ".join(map(escape, head)) + r" \\", r"\midrule", *(" & ".join(line) + r" \\" for line in lines)]
    body = "\n".join(f"    {row}" for row in rows)
    columns = "l" * words + "r" * (len(head) - words)
    return (
        f"\\begin{{table*}}\n  \\centering\n  \\caption{{{escape(caption)}}}\n  \\begin{{tabular}}{{{columns}}}\n"
        f"    \\toprule\n{body}\n    \\bottomrule\n  \\end{{tabular}}\n\\end{{table*}}"
    )
