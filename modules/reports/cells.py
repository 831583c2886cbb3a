"""The texts of a table's cells."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from modules.benchmarks.base import Column
from modules.reports.published import PublishedRow, Score
from modules.reports.tables import Cell, Row, Section, short_name
from modules.runs.results import RunResult

# ---- pieces that the formats share ------------------------------------------------------------------------------


def title(section: Section) -> str:
    """What was trained on what; a backbone that is not the papers' says so."""
    name, source, benchmark = section.backbone["name"], section.backbone["source"], section.benchmark
    if source == "embedded":
        name = f"{name} (a small model made by this project, not {benchmark.model_title})"
    elif short_name(name) != benchmark.paper_model:
        alike = benchmark.family.replace("-", "").lower() in short_name(name).lower()
        name += f" (not {benchmark.paper_model if alike else benchmark.family})"
    return f"{name} on {section.data['name']}"


def score_text(cell: Cell | None, counted: bool = False, which: str = "best") -> str:
    """`63.4 ±1.2`, with the number of seeds if `counted`; empty without a run."""
    if cell is None:
        return ""
    count = f" (n={len(cell.runs)})" if counted else ""
    if bad := cell.diverged(which):
        return f"diverged {bad}/{len(cell.runs)}"
    spread = cell.spread(which)
    digits = cell.column.digits
    return f"{cell.centre(which):.{digits}f} ±" + ("-" if spread is None else f"{spread:.{digits}f}") + count


def published_text(row: PublishedRow, key: str) -> str:
    """A printed figure, two joined by a slash, with its printed spread and `†` where it starts from MNLI."""
    if key not in row.scores:
        return ""
    spread = f" ±{row.spread[key]:g}" if key in row.spread else ""
    return printed(row.scores[key]) + spread + ("†" if key in row.mnli_init else "")


def printed(score: Score) -> str:
    return "/".join(f"{value:g}" for value in score) if isinstance(score, list) else f"{score:g}"


def average_text(row: Row) -> str:
    average = row.average()
    return "" if average is None or math.isnan(average) else f"{average:.1f}"


def span(values: Sequence[float | None], write: Callable[[float], str]) -> str:
    """One value, or the smallest and the largest."""
    known = sorted({value for value in values if value is not None})
    if not known:
        return ""
    return write(known[0]) if len(known) == 1 else f"{write(known[0])}-{write(known[-1])}"


def step_ms(runs: Sequence[RunResult]) -> str:
    """Median step time: of the runs that had machine and step to themselves, else of all that shared them with the
    fewest, saying how many seeds were stacked in a step and how many runs went on at once."""
    timed = [
        ((run.cost.get("stacked", 1), run.environment.get("runs_at_once", 1)), run.cost["step_ms"])
        for run in runs
        if run.cost.get("step_ms")
    ]
    if not timed:
        return ""
    fewest = min(shared for shared, _ in timed)
    median = statistics.median(ms for shared, ms in timed if shared == fewest)
    words = [f"{count} {word}" for count, word in zip(fewest, ("stacked", "at once"), strict=True) if count > 1]
    return f"{median:.1f} ({', '.join(words)})" if words else f"{median:.1f}"


def peak_mb(runs: Sequence[RunResult]) -> str:
    peaks = [run.cost["peak_memory_mb"] for run in runs if run.cost.get("peak_memory_mb") is not None]
    return f"{max(peaks):.0f}" if peaks else ""


def devices(runs: Sequence[RunResult]) -> str:
    names = {(str(run.environment.get("device", "?")), run.environment.get("devices", 1)) for run in runs}
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in sorted(names, key=str))


def seeds_text(row: Row) -> str:
    """Seeds per task: one number, or the fewest and the most."""
    return span([len(runs) for runs in row.by_task.values()], str)


def start_mark(cell: Cell | None) -> str:
    return "†" if cell and cell.runs[0].init_from else ""


def pipes(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as a Markdown table, the heading first."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(lines[0]))]
    text = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([text[0], rule, *text[1:]])


def _first_cells(section: Section) -> dict[Column, Cell]:
    """The columns that any row fills, each with its first cell."""
    cells = {key: cell for row in reversed(section.rows) for key, cell in row.cells.items()}
    return {column: cells[column.key] for column in section.benchmark.columns if column.key in cells}


def marked_last(rows: Sequence[Row]) -> list[tuple[bool, Row]]:
    """Each row, with whether it is the last one of its variant."""
    following = [*rows[1:], None]
    return [(after is None or after.variant != row.variant, row) for row, after in zip(rows, following, strict=True)]
