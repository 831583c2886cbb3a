"""The papers' tables with our rows beside theirs: every row, what we ran of it, and the commands for the rest.

Where nobody can run the table's own backbone, runs of other backbones stand in a table of their own, named as such.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.reports.cells import average_text, pipes, published_text, score_text, seeds_text, span, start_mark, title
from modules.reports.latex import environment, escape
from modules.reports.paper_rows import PaperRow, all_sections, command, missing, ours, paper_rows
from modules.reports.published import PublishedRow, load_all
from modules.reports.rank_study import find, grid
from modules.reports.tables import Row, Section
from modules.runs.results import RunResult

TITLES = {
    "wikisql": "WikiSQL", "mnli": "MNLI", "mnli_m": "MNLI-m", "samsum_r1": "SAMSum R1", "samsum_r2": "SAMSum R2",
    "samsum_rl": "SAMSum RL",
}  # fmt: skip
"""Headings of columns that no benchmark here has."""

CSV_COLUMNS = [
    "table", "row", "kind", "method", "backbone", "data", "variant", "label", "protocol", "params", "column", "value",
    "spread", "seeds", "statistic", "epoch", "mark", "source", "run_ids", "missing",
]  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One line of a table, ours or a paper's, with what it was made of."""

    number: int
    cells: tuple[str, ...]
    paper: PaperRow
    section: Section | None = None
    row: Row | None = None


def paper_tables(folder: str | Path, results: Iterable[RunResult]) -> dict[str, str]:
    """Texts of all published tables by file name: Markdown, CSV and LaTeX of each."""
    sections = all_sections(folder, results)
    names = dict.fromkeys(row.table for row in load_all(folder))
    return {file: text for name in sorted(names) for file, text in paper_table(folder, name, sections).items()}


def paper_table(folder: str | Path, name: str, sections: Sequence[Section]) -> dict[str, str]:
    """One table's texts by file name."""
    rows = paper_rows(folder, name)
    beside = {row.number: ours(row, rows, sections) for row in rows}
    head, lines = _lines(rows, beside)
    return {
        f"{name}.md": _markdown(rows, beside, head, lines, sections),
        f"{name}.csv": _csv(rows, beside),
        f"{name}.tex": _latex(rows, head, lines),
    }


# ---- lines that Markdown and LaTeX share --------------------------------------------------------------------------


def _columns(rows: Sequence[PaperRow]) -> dict[str, str]:
    """Heading of each column by its key, in the benchmark's order or that of the file."""
    present = dict.fromkeys(key for row in rows for key in row.published.scores)
    if own := rows[0].benchmark:
        return {column.key: column.title for column in own.columns if column.key in present}
    return {key: TITLES.get(key, key) for key in present}


def _lines(rows: Sequence[PaperRow], beside: dict[int, list]) -> tuple[list[str], list[Line]]:
    columns = _columns(rows)
    average = any(row.published.average is not None for row in rows)
    head = ["", "Whose", "Method", "Protocol", *columns.values(), *["Avg"] * average, "Trained", "Seeds"]
    lines = []
    for paper in rows:
        row = paper.published
        mark = "published, copied there" if row.mark == "copied" else "published"
        scores = [published_text(row, key) for key in columns]
        scores += ["" if row.average is None else f"{row.average:g}"] * average
        method = f"{row.method} on {row.model}"
        cells = (f"[{paper.number}]", mark, method, row.source, *scores, row.params or "", "")
        lines.append(Line(paper.number, cells, paper))
        for section, own in beside[paper.number]:
            lines.append(Line(paper.number, _our_cells(section, own, columns, average), paper, section, own))
        if paper.recipes and not beside[paper.number]:
            empty = [""] * (len(columns) + average + 2)
            lines.append(Line(paper.number, ("", "ours", row.variant or "", str(row.protocol), *empty), paper))
    return head, lines


def _our_cells(section: Section, row: Row, columns: dict[str, str], average: bool) -> tuple[str, ...]:
    scores = []
    for key in columns:
        cell = row.cells.get(key)
        subset = "‡" if cell and _subset(section, cell.runs) else ""
        scores.append(score_text(cell, row.unequal) + start_mark(cell) + subset)
    trained = span([run.parameters["adapter"] for run in row.runs], lambda n: f"{n:,}")
    label = f"{row.variant} {row.label}".strip()
    means = [average_text(row)] * average
    return ("", "ours", label, row.protocol, *scores, *means, trained, seeds_text(row))


def _subset(section: Section, runs: Sequence[RunResult]) -> bool:
    """Whether the runs are of fewer rows than the official splits have."""
    sizes, own = runs[0].data["sizes"], section.benchmark
    return (sizes.get("train", 0), own.scored_rows(sizes)) != own.official_rows[runs[0].task]


# ---- Markdown ---------------------------------------------------------------------------------------------------


def _markdown(
    rows: Sequence[PaperRow],
    beside: dict[int, list],
    head: list[str],
    lines: Sequence[Line],
    sections: Sequence[Section],
) -> str:
    first = rows[0].published
    parts = [f"# {_heading(rows)}", _about(rows)]
    parts.append(pipes([head, *(line.cells for line in lines)]) if first.benchmark != "rank" else _rank_grids(rows))
    if notes := _notes(rows, beside):
        parts.append("\n".join(f"- {note}" for note in notes))
    parts += _stand_ins(rows, sections)
    if todo := _missing(rows, beside):
        parts += ["## Missing", "\n".join(f"- {line}" for line in todo)]
    return "\n\n".join(parts) + "\n"


def _heading(rows: Sequence[PaperRow]) -> str:
    return rows[0].published.source if rows[0].published.table != "third-party" else "GLUE rows of other papers"


def _about(rows: Sequence[PaperRow]) -> str:
    first, own = rows[0].published, rows[0].benchmark
    one = len({row.published.arxiv for row in rows}) == 1
    origin = f"{first.paper}" + f" (arXiv:{first.arxiv})" * (one and bool(first.arxiv))
    words = f"Published: {origin}; {first.split}; {first.statistic}."
    if own:
        epoch = "the scored epoch" if own.columns[0].metric else "the best epoch of each run"
        words += (
            f" Ours: {own.statistic} over the seeds ± standard deviation (n-1; `±-`: one seed) of {epoch}, on the "
            f"{own.scored_on} set, of the row's own backbone; an empty cell has no run. Trained: parameters of the "
            "adapter, without the head. † starts from the MNLI run; ‡ on fewer rows than the official data."
        )
    return words


def _notes(rows: Sequence[PaperRow], beside: dict[int, list]) -> list[str]:
    notes: dict[str, None] = {}
    for paper in rows:
        row = paper.published
        metrics = ", ".join(f"{title} {row.metrics[key]}" for key, title in _columns(rows).items() if key in row.scores)
        notes[f"{row.source}: {metrics}."] = None
        notes |= {f"{row.source}: {remark}": None for remark in row.remarks}
        for doubt in filter(None, (row.setup, row.caution)):
            notes[f"[{paper.number}] {doubt}."] = None
        for section, own in beside[paper.number]:
            notes[f"[{paper.number}] ours, {own.variant} {own.label} ({own.protocol}): {title(section)}."] = None
    return list(notes)


def _missing(rows: Sequence[PaperRow], beside: dict[int, list]) -> list[str]:
    lines, reasons = [], {}
    for paper in rows:
        own = [row for _, row in beside[paper.number]]
        for seeds, tasks in missing(paper, own).items():
            lines.append(f"[{paper.number}] {paper.name}: `{command(paper, tasks, seeds)}`")
        if paper.reason and paper.stand_in and not own:
            lines.append(f"[{paper.number}] {paper.name}: {paper.reason}; by our default settings: `{command(paper)}`")
        elif paper.reason and not own:
            reasons.setdefault(paper.reason, []).append(f"[{paper.number}]")
    return [*lines, *(f"{', '.join(rows)}: no run fills them: {reason}." for reason, rows in reasons.items())]


# ---- other backbones --------------------------------------------------------------------------------------------


def _stand_ins(rows: Sequence[PaperRow], sections: Sequence[Section]) -> list[str]:
    """For a table whose own backbone nobody has: our runs of the same methods or studies, a table per backbone."""
    first = rows[0].published
    found: list[tuple[str, str]] = []
    if first.benchmark == "rank":
        found = [(title(section), pipes(grid(study, section))) for section in sections for study in find(section)]
    elif first.benchmark == "gpt3":
        found = [(title(section), text) for section in sections if (text := _same_methods(rows, section))]
    if not found:
        return []
    about = "Another model and other data: they may show an order, and their level is no comparison with the paper's."
    return ["## Ours, on other backbones", about, *(f"### {name}\n\n{text}" for name, text in found)]


def _same_methods(rows: Sequence[PaperRow], section: Section) -> str:
    """Our rows of the table's methods on its one task that we have: MNLI."""
    variants = dict.fromkeys(paper.published.variant for paper in rows)
    own = [row for variant in variants for row in section.rows if row.variant == variant and "mnli" in row.cells]
    if section.benchmark.name != "glue" or len(own) < 2:
        return ""
    lines = [["Method", "MNLI", "Trained", "Seeds"]]
    for row in own:
        trained = span([run.parameters["adapter"] for run in row.by_task["mnli"]], lambda n: f"{n:,}")
        cell = row.cells["mnli"]
        lines.append([f"{row.variant} {row.label}".strip(), score_text(cell), trained, str(len(cell.runs))])
    return pipes(lines)


def _rank_grids(rows: Sequence[PaperRow]) -> str:
    """The published figures as targets x ranks, a block per task."""
    places = {(row.published.options["target"], row.published.options["r"]): row.published for row in rows}
    ranks = sorted({r for _, r in places})
    lines = [["", "Matrices", *(f"r={r}" for r in ranks)]]
    for key, heading in _columns(rows).items():
        for target in dict.fromkeys(target for target, _ in places):
            cells = [_at(places, (target, r), key) for r in ranks]
            lines.append([heading, target, *cells])
    return pipes(lines)


def _at(places: dict[tuple[str, int], PublishedRow], place: tuple[str, int], key: str) -> str:
    return published_text(places[place], key) if place in places else ""


# ---- CSV and LaTeX ----------------------------------------------------------------------------------------------


def _csv(rows: Sequence[PaperRow], beside: dict[int, list]) -> str:
    """A line per cell: published, ours, and missing with the command that fills it."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for paper in rows:
        place = {"table": paper.published.table, "row": paper.number}
        writer.writerows(place | line for line in _csv_published(paper))
        for section, row in beside[paper.number]:
            writer.writerows(place | line for line in _csv_ours(section, row))
        own = {"kind": "missing", "method": paper.published.method, "backbone": paper.published.model}
        for seeds, tasks in missing(paper, [row for _, row in beside[paper.number]]).items():
            for task in tasks:
                lacking = {"column": task, "seeds": " ".join(map(str, seeds)), "protocol": paper.published.protocol}
                writer.writerow(place | own | lacking | {"missing": command(paper, [task], seeds)})
        if paper.reason:
            writer.writerow(place | own | {"missing": paper.reason})
    return out.getvalue()


def _csv_published(paper: PaperRow) -> Iterable[dict]:
    row = paper.published
    common = {"kind": "published", "method": row.method, "backbone": row.model, "variant": row.variant or ""}
    common |= {"protocol": row.protocol or "", "params": row.params or "", "statistic": row.statistic, "mark": row.mark}
    common["source"] = row.source + f" (arXiv:{row.arxiv})" * bool(row.arxiv)
    for key, score in row.scores.items():
        value = "/".join(f"{part:g}" for part in (score if isinstance(score, list) else [score]))
        yield common | {"column": key, "value": value, "spread": row.spread.get(key, "")}


def _csv_ours(section: Section, row: Row) -> Iterable[dict]:
    own = section.benchmark
    common = {"kind": "ours", "method": row.variant, "backbone": section.backbone["name"], "variant": row.variant}
    common |= {"data": section.data["name"], "label": row.label, "protocol": row.protocol, "statistic": own.statistic}
    for key, cell in row.cells.items():
        spread = cell.spread()
        yield common | {
            "params": span([run.parameters["adapter"] for run in cell.runs], str),
            "column": key,
            "value": "" if cell.diverged() else f"{cell.centre():.2f}",
            "spread": "" if spread is None or cell.diverged() else f"{spread:.2f}",
            "seeds": " ".join(str(run.seed) for run in cell.runs),
            "epoch": cell.runs[0].training.get("score_epoch", "best") if cell.column.metric else "best",
            "source": "subset of the official data" if _subset(section, cell.runs) else "",
            "run_ids": " ".join(run.id for run in cell.runs),
        }


def _latex(rows: Sequence[PaperRow], head: list[str], lines: Sequence[Line]) -> str:
    text = [
        [escape(cell) if line.row else rf"\textit{{{escape(cell)}}}" * bool(cell) for cell in line.cells]
        for line in lines
    ]
    caption = f"{_heading(rows)} (in italics) and our runs of its rows. {_about(rows)}".replace("`", "")
    return "% \\usepackage{booktabs}\n\n" + environment(head, text, 4, caption) + "\n"
