"""Texts of a table's cells, the same in every format."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from modules.benchmarks.base import Column
from modules.reports.tables.published import PublishedRow, Score
from modules.reports.tables.section import Cell, Row, Section, short_name
from modules.runs.results import RunResult


def title(section: Section) -> str:
    """Heading of a section: the backbone and the data; a backbone other than the papers' is named as such."""
    name, source, benchmark = section.backbone["name"], section.backbone["source"], section.benchmark
    if source == "embedded":
        name = f"{name} (a small model made by this project, not {benchmark.model_title})"
    elif benchmark.family and short_name(name) != benchmark.paper_model:
        same_family = benchmark.family.replace("-", "").lower() in short_name(name).lower()
        name += f" (not {benchmark.paper_model if same_family else benchmark.family})"
    if parts := section.backbone.get("frozen"):
        name += f", {parts.replace(',', ' and ')} frozen"
    return f"{name} on {section.data['name']}"


def score_text(cell: Cell | None, counted: bool = False, which: str = "best") -> str:
    """Such as `63.4 ±1.2`, with the number of seeds if `counted`; empty without a run."""
    if cell is None:
        return ""
    if fault := cell.fault(which):
        return fault
    count = f" (n={len(cell.runs)})" if counted else ""
    return with_spread(cell.centre(which), cell.spread(which), cell.column.digits) + count


def with_spread(centre: float, spread: float | None, digits: int = 1) -> str:
    """Such as `63.4 ±1.2`; `63.4` of a single seed."""
    return f"{centre:.{digits}f}" + ("" if spread is None else f" ±{spread:.{digits}f}")


def published_text(row: PublishedRow, key: str) -> str:
    """A published score with its spread, and `†` where it starts from MNLI; empty where the row has no such score."""
    if key not in row.scores:
        return ""
    spread = f" ±{row.spread[key]:g}" if key in row.spread else ""
    return printed(row.scores[key]) + spread + ("†" if key in row.mnli_init else "")


def printed(score: Score) -> str:
    """A score as the paper prints it; the two of a cell are joined by a slash."""
    return "/".join(f"{value:g}" for value in score) if isinstance(score, list) else f"{score:g}"


def published_average(row: PublishedRow) -> str:
    """A published row's average; empty where the paper prints none."""
    return "" if row.average is None else f"{row.average:g}"


def average_text(row: Row) -> str:
    """The mean over all columns; empty where one is missing or has no score."""
    average = row.average()
    return "" if average is None or math.isnan(average) else f"{average:.1f}"


def span(values: Sequence[float | None], write: Callable[[float], str]) -> str:
    """A single value, or the smallest and the largest joined by a hyphen; empty where none is known."""
    known = sorted({value for value in values if value is not None})
    if not known:
        return ""
    return write(known[0]) if len(known) == 1 else f"{write(known[0])}-{write(known[-1])}"


def step_ms(runs: Sequence[RunResult]) -> str:
    """Median time of a training step in ms.

    Of the runs that shared their step and their machine with the fewest others; the text says how many seeds were
    stacked in a step and how many runs went on at once.
    """
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
    """The largest peak memory of the runs, in MB; empty where none was measured."""
    peaks = [run.cost["peak_memory_mb"] for run in runs if run.cost.get("peak_memory_mb") is not None]
    return f"{max(peaks):.0f}" if peaks else ""


def devices(runs: Sequence[RunResult]) -> str:
    """The devices that the runs were trained on, with their number where a run used several."""
    names = {(str(run.environment.get("device", "?")), run.environment.get("devices", 1)) for run in runs}
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in sorted(names, key=str))


def adapter_text(row: Row) -> str:
    """Trained parameters of the adapter, without the head."""
    return span([run.parameters["adapter"] for run in row.runs], with_commas)


def with_commas(number: float) -> str:
    """Such as `294,912`."""
    return f"{number:,}"


def seeds_text(row: Row) -> str:
    """Number of seeds per task: a single number, or the fewest and the most."""
    return span([len(runs) for runs in row.by_task.values()], str)


def start_mark(cell: Cell | None) -> str:
    """`†` where the cell's runs start from another task's run (MNLI)."""
    return "†" if cell and cell.runs[0].init_from else ""


def pipes(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table from lines of cells, the first of which is the heading."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(lines[0]))]
    text = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([text[0], rule, *text[1:]])


def first_cells(section: Section) -> dict[Column, Cell]:
    """The columns that at least one row fills, each with its first cell."""
    cells = {key: cell for row in reversed(section.rows) for key, cell in row.cells.items()}
    return {column: cells[column.key] for column in section.benchmark.columns if column.key in cells}


def marked_last(rows: Sequence[Row]) -> list[tuple[bool, Row]]:
    """Each row, with whether it is the last row of its variant."""
    following = [*rows[1:], None]
    return [(after is None or after.variant != row.variant, row) for row, after in zip(rows, following, strict=True)]
