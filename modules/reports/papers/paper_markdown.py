"""A published table with our rows as Markdown: notes, missing runs, and our runs on other backbones."""

from __future__ import annotations

from collections.abc import Sequence

from modules.reports.papers.paper_lines import Line, OurRows, about, columns_of, heading
from modules.reports.papers.paper_rows import PaperRow, command, missing
from modules.reports.tables.cells import pipes, published_text, score_text, span, title, with_commas
from modules.reports.tables.published import PublishedRow
from modules.reports.tables.rank_study import find, grid
from modules.reports.tables.section import Section


def paper_markdown(
    rows: Sequence[PaperRow],
    ours: OurRows,
    head: list[str],
    lines: Sequence[Line],
    sections: Sequence[Section],
) -> str:
    """The whole file.

    Args:
        head, lines: of `table_lines`.
        sections: of all our runs, for a table whose backbone nobody can run.
    """
    first = rows[0].published
    parts = [f"# {heading(rows)}", about(rows)]
    parts.append(pipes([head, *(line.cells for line in lines)]) if first.benchmark != "rank" else _rank_grids(rows))
    if notes := _notes(rows, ours):
        parts.append("\n".join(f"- {note}" for note in notes))
    parts += _stand_ins(rows, sections)
    if todo := _missing(rows, ours):
        parts += ["## Missing", "\n".join(f"- {line}" for line in todo)]
    return "\n\n".join(parts) + "\n"


def _notes(rows: Sequence[PaperRow], ours: OurRows) -> list[str]:
    notes: dict[str, None] = {}
    conditions: dict[str, list[str]] = {}
    columns = columns_of(rows)
    for paper in rows:
        row = paper.published
        metrics = ", ".join(f"{name} {row.metrics[key]}" for key, name in columns.items() if key in row.scores)
        notes[f"{row.source}: {metrics}."] = None
        if row.conditions:
            conditions.setdefault(row.conditions, []).append(f"[{paper.number}]")
        notes |= {f"{row.source}: {remark}": None for remark in row.remarks}
        for doubt in filter(None, (row.setup, row.caution)):
            notes[f"[{paper.number}] {doubt}."] = None
        for section, our_row in ours[paper.number]:
            name = f"{our_row.variant} {our_row.label} ({our_row.protocol})"
            notes[f"[{paper.number}] ours, {name}: {title(section)}."] = None
    return [*notes, *(f"{', '.join(numbers)}: {words}." for words, numbers in conditions.items())]


def _missing(rows: Sequence[PaperRow], ours: OurRows) -> list[str]:
    lines, reasons = [], {}
    for paper in rows:
        our_rows = [row for _, row in ours[paper.number]]
        for seeds, tasks in missing(paper, our_rows).items():
            lines.append(f"[{paper.number}] {paper.name}: `{command(paper, tasks, seeds)}`")
        if paper.reason and paper.stand_in and not our_rows:
            lines.append(f"[{paper.number}] {paper.name}: {paper.reason}; by our default settings: `{command(paper)}`")
        elif paper.reason and not our_rows:
            reasons.setdefault(paper.reason, []).append(f"[{paper.number}]")
    return [*lines, *(f"{', '.join(rows)}: no run fills them: {reason}." for reason, rows in reasons.items())]


# ---- other backbones --------------------------------------------------------------------------------------------


def _stand_ins(rows: Sequence[PaperRow], sections: Sequence[Section]) -> list[str]:
    """Our runs of the same methods or studies on other backbones, for a table whose backbone nobody can run."""
    first = rows[0].published
    found: list[tuple[str, str]] = []
    if first.benchmark == "rank":
        found = [(title(section), pipes(grid(study, section))) for section in sections for study in find(section)]
    elif first.benchmark == "gpt3":
        found = [(title(section), text) for section in sections if (text := _same_methods(rows, section))]
    if not found:
        return []
    note = "Another model and other data: they may show an order, and their level is no comparison with the paper's."
    return ["## Ours, on other backbones", note, *(f"### {name}\n\n{text}" for name, text in found)]


def _same_methods(rows: Sequence[PaperRow], section: Section) -> str:
    """Our rows of the table's methods on MNLI, the only task of the table that we have; "" for fewer than two rows."""
    variants = dict.fromkeys(paper.published.variant for paper in rows)
    found = [row for variant in variants for row in section.rows if row.variant == variant and "mnli" in row.cells]
    if section.benchmark.name != "glue" or len(found) < 2:
        return ""
    lines = [["Method", "MNLI", "Trained", "Seeds"]]
    for row in found:
        trained = span([run.parameters["adapter"] for run in row.by_task["mnli"]], with_commas)
        cell = row.cells["mnli"]
        lines.append([f"{row.variant} {row.label}".strip(), score_text(cell), trained, str(len(cell.runs))])
    return pipes(lines)


def _rank_grids(rows: Sequence[PaperRow]) -> str:
    """The published figures as targets x ranks, a block per task."""
    places = {(row.published.options["target"], row.published.options["r"]): row.published for row in rows}
    ranks = sorted({r for _, r in places})
    lines = [["", "Matrices", *(f"r={r}" for r in ranks)]]
    for key, name in columns_of(rows).items():
        for target in dict.fromkeys(target for target, _ in places):
            cells = [_at(places, (target, r), key) for r in ranks]
            lines.append([name, target, *cells])
    return pipes(lines)


def _at(places: dict[tuple[str, int], PublishedRow], place: tuple[str, int], key: str) -> str:
    return published_text(places[place], key) if place in places else ""
