"""Markdown and console text of the sections that `modules/tables.py` builds."""

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from modules import render_differences as differences
from modules.benchmark import Benchmark, Column
from modules.differences import compare
from modules.glue import GLUE
from modules.published import PublishedRow, Score
from modules.rank_study import RankStudy, find, grid
from modules.results import RunResult
from modules.tables import Cell, Row, Section, plain, short_name

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


# ---- Markdown ---------------------------------------------------------------------------------------------------


def to_markdown(sections: Sequence[Section], benchmark: Benchmark = GLUE) -> str:
    """The whole file: how to read it, then one table with its notes per section."""
    parts = [f"# {benchmark.title}", benchmark.reading]
    if not sections:
        parts.append("There are no runs yet.")
    for section in sections:
        parts += [f"## {title(section)}", _table(section), "\n".join(f"- {note}" for note in _notes(section))]
        parts += filter(None, [*map(partial(_rank_study, section), find(section)), differences.markdown(section)])
    return "\n\n".join(parts) + "\n"


def _rank_study(section: Section, study: RankStudy) -> str:
    about = (
        f"Protocol {study.protocol}. Cells as above; a mean's spread is that of the seeds' means. The LoRA paper's "
        "Tables 5 and 6 ask this of GPT-3 175B on WikiSQL and MNLI: another model, other tasks, no comparison of level."
    )
    return "\n\n".join(["### Rank and adapted matrices (LoRA)", about, pipes(grid(study, section))])


def pipes(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as a Markdown table, the heading first."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(lines[0]))]
    text = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([text[0], rule, *text[1:]])


def _table(section: Section) -> str:
    benchmark = section.benchmark
    titles = [column.title for column in benchmark.columns] + ["Avg"] * benchmark.average
    costs = ["Adapter", "Head", "Step ms", "Peak MB", "Seeds"]
    lines: list[list[str]] = [["", "Method", "Protocol", *titles, *costs]]
    winners = {comparison.winner for comparison in compare(section) if len(comparison.columns) > 1}
    for number, (last, row) in enumerate(marked_last(section.rows), start=1):
        lines.append(_our_line(number, row, benchmark, number - 1 in winners))
        if last:
            lines += [_published_line(paper, benchmark) for paper in section.beside(row.variant)]
    return pipes(lines)


def _our_line(number: int, row: Row, benchmark: Benchmark, winner: bool = False) -> list[str]:
    counted = row.unequal
    cells = [row.cells.get(column.key) for column in benchmark.columns]
    scores = [score_text(cell, counted) + start_mark(cell) for cell in cells]
    scores += [average_text(row)] * benchmark.average
    parameters = [run.parameters for run in row.runs]
    return [
        f"[{number}]",
        (f"**{row.variant}**" if winner else row.variant) + (f" `{row.label}`" if row.label else ""),
        row.protocol,
        *scores,
        span([p["adapter"] for p in parameters], lambda n: f"{n:,}"),
        span([p["head"] for p in parameters], lambda n: f"{n:,}"),
        step_ms(row.runs),
        peak_mb(row.runs),
        seeds_text(row),
    ]


def _published_line(row: PublishedRow, benchmark: Benchmark) -> list[str]:
    scores = [published_text(row, column.key) for column in benchmark.columns]
    scores += ["" if row.average is None else f"{row.average:g}"] * benchmark.average
    origin = row.source + (", copied there" if row.mark == "copied" else "")
    return ["*published*", f"{row.method} on {row.model}", origin, *scores, row.params, "", "", "", ""]


def _notes(section: Section) -> list[str]:
    notes = [f"Backbone: {_origin(section.backbone)}. Data: {section.data['source']}, {section.data['name']}."]
    notes.append("Columns: " + "; ".join(_column_notes(section)) + ".")
    notes.append(f"Rows of data (train / {section.benchmark.scored_on}): " + "; ".join(_size_notes(section)) + ".")
    if any(runs[0].init_from for row in section.rows for runs in row.by_task.values()) or any(
        row.mnli_init for row in section.published
    ):
        notes.append("† starts from the weights of the MNLI run.")
    tasks = section.benchmark.tasks
    notes += [f"[{number}] {_row_note(row, tasks)}" for number, row in enumerate(section.rows, start=1)]
    return notes + _published_notes(section.published, section.benchmark)


def _origin(backbone: dict) -> str:
    return f"{backbone['source']}, {backbone['name']}, content {str(backbone['hash'])[:12]}"


def _first_cells(section: Section) -> dict[Column, Cell]:
    """The columns that any row fills, each with its first cell."""
    cells = {key: cell for row in reversed(section.rows) for key, cell in row.cells.items()}
    return {column: cells[column.key] for column in section.benchmark.columns if column.key in cells}


def _column_notes(section: Section) -> list[str]:
    notes = []
    for column, cell in _first_cells(section).items():
        word = section.benchmark.metric_words.get(cell.metric, cell.metric)
        splits = [name.removeprefix("validation_") for name in dev_sizes(cell.runs[0].data["sizes"])]
        extra = f" ({' and '.join(splits)} rows)" if column.key == "mnli" else ""
        notes.append(f"{column.title} {word}{extra}")
    return notes


def dev_sizes(sizes: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in sizes.items() if name.startswith("validation")}


def _size_notes(section: Section) -> list[str]:
    notes, benchmark = [], section.benchmark
    for task in benchmark.tasks:
        sizes = [run.data["sizes"] for row in section.rows for run in row.by_task.get(task, ())]
        pairs = sorted({(size.get("train", 0), benchmark.scored_rows(size)) for size in sizes})
        official = benchmark.official_rows[task] if section.data["source"] != "embedded" else None
        if pairs:
            notes.append(f"{benchmark.tasks[task].title} " + " or ".join(_size_text(pair, official) for pair in pairs))
    return notes


def _size_text(pair: tuple[int, int], official: tuple[int, int] | None) -> str:
    whole = official or pair
    texts = [f"{n:,}" if n == full else f"**{n:,} of {full:,}**" for n, full in zip(pair, whole, strict=True)]
    return " / ".join(texts)


def _row_note(row: Row, tasks: Mapping[str, Any]) -> str:
    """Everything that was set, what is common to the tasks first."""
    options = _by_task(row, lambda run: run.variant_config, tasks)
    training = _by_task(row, lambda run: {k: v for k, v in run.training.items() if k not in ("seed", "seeds")}, tasks)
    seeds = sorted({run.seed for run in row.runs})
    notes = [f"{row.variant}: best dev epoch of seeds {', '.join(map(str, seeds))}", training]
    notes += [f"options {options}"] if options else []
    notes += [f"set by hand: {', '.join(row.runs[0].overrides)}"] if row.runs[0].overrides else []
    notes += [f"device {devices(row.runs)}", *row.remarks]
    return "; ".join(note for note in notes if note) + "."


def _by_task(row: Row, pick: Callable[[RunResult], dict], tasks: Mapping[str, Any]) -> str:
    """`lr 5e-4, epochs 30 (MNLI), 80 (RTE)`: a value once where the tasks agree, else with the tasks it holds for."""
    found: dict[str, dict[str, list[str]]] = {}
    for task, runs in row.by_task.items():
        for name, value in pick(runs[0]).items():
            if value not in (None, "", {}, []):
                text = plain(json.dumps(value, sort_keys=True))
                found.setdefault(name, {}).setdefault(text, []).append(tasks[task].title)
    words = []
    for name, values in found.items():
        if len(values) == 1 and len(next(iter(values.values()))) == len(row.by_task):
            words.append(f"{name} {next(iter(values))}")
        else:
            words.append(f"{name} " + ", ".join(f"{text} ({' '.join(of)})" for text, of in values.items()))
    return "; ".join(words)


def _published_notes(rows: Sequence[PublishedRow], benchmark: Benchmark) -> list[str]:
    notes: dict[str, None] = {}
    for row in rows:
        columns = [column for column in benchmark.columns if column.key in row.scores]
        metrics = ", ".join(f"{column.title} {row.metrics[column.key]}" for column in columns)
        arxiv = f" (arXiv:{row.arxiv})" if row.arxiv else ""
        partial = benchmark.average and len(columns) < len(benchmark.columns)
        average = f"; Avg over these {len(columns)} tasks" if partial else ""
        notes[f"{row.source}{arxiv}: {row.split}, {row.statistic}; {metrics}{average}."] = None
        notes |= {f"{row.source}: {remark}": None for remark in row.remarks}
        for doubt in filter(None, (row.setup, row.caution)):
            notes[f"{row.source}, {row.method} on {row.model} ({row.params}): {doubt}."] = None
    return list(notes)


def marked_last(rows: Sequence[Row]) -> list[tuple[bool, Row]]:
    """Each row, with whether it is the last one of its variant."""
    following = [*rows[1:], None]
    return [(after is None or after.variant != row.variant, row) for row, after in zip(rows, following, strict=True)]


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
