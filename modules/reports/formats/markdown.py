"""A benchmark's table as Markdown: one table with notes for each section."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from modules.benchmarks.base import Benchmark
from modules.reports.formats.differences import differences_markdown
from modules.reports.tables.cells import (
    adapter_text,
    average_text,
    devices,
    first_cells,
    marked_last,
    peak_mb,
    pipes,
    published_average,
    published_text,
    score_text,
    seeds_text,
    span,
    start_mark,
    step_ms,
    title,
    with_commas,
)
from modules.reports.tables.published import PublishedRow
from modules.reports.tables.rank_study import RankStudy, about, find, grid
from modules.reports.tables.rate_curves import unequal
from modules.reports.tables.section import SELECTION, Row, Section, plain, selection
from modules.reports.tables.significance import compare
from modules.runs.results import RunResult


def to_markdown(sections: Sequence[Section], benchmark: Benchmark) -> str:
    """The whole file: how to read it, then a table with notes for each section."""
    parts = [f"# {benchmark.title}", benchmark.reading, *filter(None, [benchmark.published_scores])]
    if not sections:
        parts.append("There are no runs yet.")
    for section in sections:
        parts += [f"## {title(section)}", _table(section), "\n".join(f"- {note}" for note in _notes(section))]
        parts += filter(None, [*map(partial(_rank_study, section), find(section)), differences_markdown(section)])
    return "\n\n".join(parts) + "\n"


def _rank_study(section: Section, study: RankStudy) -> str:
    note = (
        "Cells as above; a mean's spread is that of the seeds' means. The LoRA paper's Tables 5 and 6 ask this of "
        "GPT-3 175B on WikiSQL and MNLI: another model, other tasks, no comparison of level."
    )
    words = " ".join(filter(None, [f"Protocol {study.protocol}.", about(study), note]))
    return "\n\n".join(["### Rank and adapted matrices (LoRA)", words, pipes(grid(study, section))])


def _table(section: Section) -> str:
    benchmark = section.benchmark
    titles = [*(column.title for column in section.columns), *(["Avg"] if benchmark.average else [])]
    costs = ["Adapter", "Head", "Step ms", "Peak MB", "Seeds"]
    lines: list[list[str]] = [["", "Method", "Protocol", *titles, *costs]]
    winners = {comparison.winner for comparison in compare(section) if len(comparison.columns) > 1}
    for number, (last, row) in enumerate(marked_last(section.rows), start=1):
        lines.append(_our_line(number, row, section, number - 1 in winners))
        if last:
            lines += [_published_line(paper, section) for paper in section.published_of(row.variant)]
    return pipes(lines)


def _our_line(number: int, row: Row, section: Section, winner: bool = False) -> list[str]:
    cells = [row.cells.get(column.key) for column in section.columns]
    scores = [score_text(cell, row.unequal) + start_mark(cell) for cell in cells]
    scores += [average_text(row)] if section.benchmark.average else []
    name = f"**{row.variant}**" if winner else row.variant
    return [
        f"[{number}]",
        f"{name} `{row.label}`" if row.label else name,
        row.protocol,
        *scores,
        adapter_text(row),
        span([run.parameters["head"] for run in row.runs], with_commas),
        step_ms(row.runs),
        peak_mb(row.runs),
        seeds_text(row),
    ]


def _published_line(row: PublishedRow, section: Section) -> list[str]:
    scores = [published_text(row, column.key) for column in section.columns]
    scores += [published_average(row)] if section.benchmark.average else []
    origin = row.source + (", copied there" if row.mark == "copied" else "")
    return ["*published*", f"{row.method} on {row.model}", origin, *scores, row.params or "", "", "", "", ""]


def _notes(section: Section) -> list[str]:
    notes = [f"Backbone: {_origin(section.backbone)}. Data: {section.data['source']}, {section.data['name']}."]
    notes.append("Columns: " + "; ".join(_column_notes(section)) + ".")
    notes.append(f"Rows of data (train / {section.benchmark.scored_on}): " + "; ".join(_size_notes(section)) + ".")
    notes += _data_notes(section)
    if any(runs[0].init_from for row in section.rows for runs in row.by_task.values()) or any(
        row.mnli_init for row in section.published
    ):
        notes.append("† starts from the weights of the MNLI run.")
    notes += filter(None, [unequal(section.curves)])
    tasks = section.benchmark.tasks
    notes += [f"[{number}] {_row_note(row, tasks)}" for number, row in enumerate(section.rows, start=1)]
    return notes + _published_notes(section.published, section.benchmark)


def _origin(backbone: dict) -> str:
    return f"{backbone['source']}, {backbone['name']}, content {str(backbone['hash'])[:12]}"


def _column_notes(section: Section) -> list[str]:
    notes = []
    for column, cell in first_cells(section).items():
        word = section.benchmark.metric_words.get(cell.metric, cell.metric)
        splits = [name.removeprefix("validation_") for name in _dev_sizes(cell.runs[0].data["sizes"])]
        extra = f" ({' and '.join(splits)} rows)" if column.key == "mnli" else ""
        notes.append(f"{column.title} {word}{extra}")
    return notes


def _dev_sizes(sizes: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in sizes.items() if name.startswith("validation")}


def _size_notes(section: Section) -> list[str]:
    notes, benchmark = [], section.benchmark
    for task in benchmark.tasks:
        sizes = [run.data["sizes"] for row in section.rows for run in row.by_task.get(task, ())]
        pairs = sorted({(size.get("train", 0), benchmark.scored_rows(size)) for size in sizes})
        official = benchmark.official_rows.get(task) if section.data["source"] != "embedded" else None
        if pairs:
            notes.append(f"{benchmark.tasks[task].title} " + " or ".join(_size_text(pair, official) for pair in pairs))
    return notes


def _data_notes(section: Section) -> list[str]:
    """What the results say of their rows, such as what was left out of them."""
    tasks = section.benchmark.tasks
    runs = [(tasks[task].title, run) for row in section.rows for task, own in row.by_task.items() for run in own]
    return list(dict.fromkeys(f"{name}: {note}." for name, run in runs for note in run.data.get("notes", ())))


def _size_text(pair: tuple[int, int], official: tuple[int, int] | None) -> str:
    whole = official or pair
    texts = [f"{n:,}" if n == full else f"**{n:,} of {full:,}**" for n, full in zip(pair, whole, strict=True)]
    return " / ".join(texts)


def _row_note(row: Row, tasks: Mapping[str, Any]) -> str:
    """All settings of a row."""
    options = _by_task(row, lambda run: run.variant_config, tasks)
    training = _by_task(row, lambda run: {k: v for k, v in run.training.items() if k not in ("seed", "seeds")}, tasks)
    seeds = sorted({run.seed for run in row.runs})
    chosen = SELECTION[selection(row.runs[0])]
    notes = [f"{row.variant}: {chosen} of seeds {', '.join(map(str, seeds))}", training]
    notes += [f"options {options}"] if options else []
    notes += [f"set by hand: {', '.join(row.runs[0].overrides)}"] if row.runs[0].overrides else []
    notes += [f"device {devices(row.runs)}", *row.remarks]
    return "; ".join(note for note in notes if note) + "."


def _by_task(row: Row, pick: Callable[[RunResult], dict], tasks: Mapping[str, Any]) -> str:
    """Such as `lr 5e-4; epochs 30 (MNLI), 80 (RTE)`: values are followed by their tasks where the tasks differ."""
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
        incomplete = benchmark.average and len(columns) < len(benchmark.columns)
        average = f"; Avg over these {len(columns)} tasks" if incomplete else ""
        notes[f"{row.source}{arxiv}: {row.split}, {row.statistic}; {metrics}{average}."] = None
        notes |= {f"{row.source}: {remark}": None for remark in row.remarks}
        size = f" ({row.params})" if row.params else ""
        for doubt in filter(None, (row.conditions, row.setup, row.caution)):
            notes[f"{row.source}, {row.method} on {row.model}{size}: {doubt}."] = None
    return list(notes)
