"""Markdown and console text of the sections that `modules/tables.py` builds."""

import json
import math
import statistics
from collections.abc import Callable, Sequence

from modules.published import PublishedRow, Score
from modules.results import RunResult
from modules.tables import Cell, Row, Section, plain, short_name
from modules.tasks import TASKS

# Rows of the official splits (train, dev; MNLI: matched + mismatched), to tell a subset from the whole.
OFFICIAL_ROWS = {
    "mnli": (392_702, 9_815 + 9_832),
    "sst2": (67_349, 872),
    "mrpc": (3_668, 408),
    "cola": (8_551, 1_043),
    "qnli": (104_743, 5_463),
    "qqp": (363_846, 40_430),
    "rte": (2_490, 277),
    "stsb": (5_749, 1_500),
}
_METRIC_WORDS = {
    "accuracy": "accuracy",
    "f1": "F1",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
}
_READING = """\
A cell is the median over the seeds ± their standard deviation (n-1; `±-`: one seed), times 100, on the dev set. Each
run counts with its best epoch, chosen on the rows it is scored on, so the figures flatter a little; `glue.csv` has the
last epoch too. Avg is there only when all eight tasks are. Adapter and head parameters both train; the papers count the
adapter alone. Step time is the median over the row's runs, memory the largest; compare them on one device only.
Rows marked *published* are the papers' own figures on the model they name: beside ours, not comparable unless the model
and all of the notes agree."""


# ---- pieces that the formats share ------------------------------------------------------------------------------


def title(section: Section) -> str:
    """What was trained on what; a backbone that is not RoBERTa-base says so."""
    name, source = section.backbone["name"], section.backbone["source"]
    if source == "embedded":
        name = f"{name} (a small model made by this project, not RoBERTa-base)"
    elif short_name(name) != "roberta-base":
        name += " (not roberta-base)" if "roberta" in short_name(name).lower() else " (not RoBERTa)"
    return f"{name} on {section.data['name']}"


def score_text(cell: Cell | None, counted: bool = False, which: str = "best") -> str:
    """`63.4 ±1.2`, with the number of seeds if `counted`; empty without a run."""
    if cell is None:
        return ""
    count = f" (n={len(cell.runs)})" if counted else ""
    if bad := cell.diverged(which):
        return f"diverged {bad}/{len(cell.runs)}"
    spread = cell.spread(which)
    return f"{100 * cell.median(which):.1f} ±" + ("-" if spread is None else f"{100 * spread:.1f}") + count


def published_text(row: PublishedRow, task: str) -> str:
    """A printed figure, two joined by a slash, with its printed spread and `†` where it starts from MNLI."""
    if task not in row.scores:
        return ""
    spread = f" ±{row.spread[task]:g}" if task in row.spread else ""
    return printed(row.scores[task]) + spread + ("†" if task in row.mnli_init else "")


def printed(score: Score) -> str:
    return "/".join(f"{value:g}" for value in score) if isinstance(score, list) else f"{score:g}"


def _average(row: Row) -> str:
    average = row.average()
    return "" if average is None or math.isnan(average) else f"{100 * average:.1f}"


def span(values: Sequence[float | None], write: Callable[[float], str]) -> str:
    """One value, or the smallest and the largest."""
    known = sorted({value for value in values if value is not None})
    if not known:
        return ""
    return write(known[0]) if len(known) == 1 else f"{write(known[0])}-{write(known[-1])}"


def step_ms(runs: Sequence[RunResult]) -> str:
    """Median step time: of the runs that had the machine to themselves, else of all, saying how many ran at once."""
    timed = [(run.environment.get("runs_at_once", 1), run.cost["step_ms"]) for run in runs if run.cost.get("step_ms")]
    if not timed:
        return ""
    fewest = min(at_once for at_once, _ in timed)
    median = statistics.median(ms for at_once, ms in timed if at_once == fewest)
    return f"{median:.1f}" if fewest == 1 else f"{median:.1f} ({fewest} at once)"


def peak_mb(runs: Sequence[RunResult]) -> str:
    peaks = [run.cost["peak_memory_mb"] for run in runs if run.cost.get("peak_memory_mb") is not None]
    return f"{max(peaks):.0f}" if peaks else ""


def devices(runs: Sequence[RunResult]) -> str:
    names = {(str(run.environment.get("device", "?")), run.environment.get("devices", 1)) for run in runs}
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in sorted(names, key=str))


def _unequal(row: Row) -> bool:
    return len({len(cell.runs) for cell in row.cells.values()}) > 1


def _start_mark(cell: Cell | None) -> str:
    return "†" if cell and cell.runs[0].init_from else ""


# ---- Markdown ---------------------------------------------------------------------------------------------------


def to_markdown(sections: Sequence[Section]) -> str:
    """The whole file: how to read it, then one table with its notes per section."""
    parts = ["# GLUE", _READING]
    if not sections:
        parts.append("There are no runs yet.")
    for section in sections:
        parts += [f"## {title(section)}", _table(section), "\n".join(f"- {note}" for note in _notes(section))]
    return "\n\n".join(parts) + "\n"


def _table(section: Section) -> str:
    titles = [task.title for task in TASKS.values()]
    costs = ["Adapter", "Head", "Step ms", "Peak MB", "Seeds"]
    lines: list[list[str]] = [["", "Method", "Protocol", *titles, "Avg", *costs]]
    for number, (last, row) in enumerate(_marked_last(section.rows), start=1):
        lines.append(_our_line(number, row))
        if last:
            lines += [_published_line(paper) for paper in section.beside(row.variant)]
    lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(lines[0]))]
    text = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([text[0], rule, *text[1:]])


def _our_line(number: int, row: Row) -> list[str]:
    counted = _unequal(row)
    scores = [score_text(row.cells.get(task), counted) + _start_mark(row.cells.get(task)) for task in TASKS]
    parameters = [run.parameters for run in row.runs]
    return [
        f"[{number}]",
        f"{row.variant} `{row.label}`" if row.label else row.variant,
        row.protocol,
        *scores,
        _average(row),
        span([p["adapter"] for p in parameters], lambda n: f"{n:,}"),
        span([p["head"] for p in parameters], lambda n: f"{n:,}"),
        step_ms(row.runs),
        peak_mb(row.runs),
        span([len(cell.runs) for cell in row.cells.values()], str),
    ]


def _published_line(row: PublishedRow) -> list[str]:
    scores = [published_text(row, task) for task in TASKS]
    average = "" if row.average is None else f"{row.average:g}"
    origin = row.source + (", copied there" if row.mark == "copied" else "")
    return ["*published*", f"{row.method} on {row.model}", origin, *scores, average, row.params, "", "", "", ""]


def _notes(section: Section) -> list[str]:
    notes = [f"Backbone: {_origin(section.backbone)}. Data: {section.data['source']}, {section.data['name']}."]
    notes.append("Columns: " + "; ".join(_column_notes(section)) + ".")
    notes.append("Rows of data (train / dev): " + "; ".join(_size_notes(section)) + ".")
    if any(cell.runs[0].init_from for row in section.rows for cell in row.cells.values()) or any(
        row.mnli_init for row in section.published
    ):
        notes.append("† starts from the weights of the MNLI run.")
    notes += [f"[{number}] {_row_note(row)}" for number, row in enumerate(section.rows, start=1)]
    return notes + _published_notes(section.published)


def _origin(backbone: dict) -> str:
    return f"{backbone['source']}, {backbone['name']}, content {str(backbone['hash'])[:12]}"


def _first_cells(section: Section) -> dict[str, Cell]:
    found: dict[str, Cell] = {}
    for row in section.rows:
        for task, cell in row.cells.items():
            found.setdefault(task, cell)
    return {task: found[task] for task in TASKS if task in found}


def _column_notes(section: Section) -> list[str]:
    notes = []
    for task, cell in _first_cells(section).items():
        word = _METRIC_WORDS.get(cell.metric, cell.metric)
        splits = [name.removeprefix("validation_") for name in dev_sizes(cell.runs[0].data["sizes"])]
        extra = f" ({' and '.join(splits)} rows)" if task == "mnli" else ""
        notes.append(f"{TASKS[task].title} {word}{extra}")
    return notes


def dev_sizes(sizes: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in sizes.items() if name.startswith("validation")}


def _size_notes(section: Section) -> list[str]:
    notes = []
    for task in _first_cells(section):
        cells = [row.cells[task] for row in section.rows if task in row.cells]
        pairs = {
            (r.data["sizes"].get("train", 0), sum(dev_sizes(r.data["sizes"]).values())) for c in cells for r in c.runs
        }
        official = OFFICIAL_ROWS[task] if section.data["source"] != "embedded" else None
        notes.append(f"{TASKS[task].title} " + " or ".join(_size_text(pair, official) for pair in sorted(pairs)))
    return notes


def _size_text(pair: tuple[int, int], official: tuple[int, int] | None) -> str:
    whole = official or pair
    texts = [f"{n:,}" if n == full else f"**{n:,} of {full:,}**" for n, full in zip(pair, whole, strict=True)]
    return " / ".join(texts)


def _row_note(row: Row) -> str:
    """Everything that was set, what is common to the tasks first."""
    options = _by_task(row, lambda run: run.variant_config)
    training = _by_task(row, lambda run: {k: v for k, v in run.training.items() if k not in ("seed", "seeds")})
    seeds = sorted({run.seed for run in row.runs})
    notes = [f"{row.variant}: best dev epoch of seeds {', '.join(map(str, seeds))}", training]
    notes += [f"options {options}"] if options else []
    notes += [f"set by hand: {', '.join(row.runs[0].overrides)}"] if row.runs[0].overrides else []
    notes += [f"device {devices(row.runs)}", *row.remarks]
    return "; ".join(note for note in notes if note) + "."


def _by_task(row: Row, pick: Callable[[RunResult], dict]) -> str:
    """`lr 5e-4, epochs 30 (MNLI), 80 (RTE)`: a value once where the tasks agree, else with the tasks it holds for."""
    found: dict[str, dict[str, list[str]]] = {}
    for task, cell in row.cells.items():
        for name, value in pick(cell.runs[0]).items():
            if value not in (None, "", {}, []):
                text = plain(json.dumps(value, sort_keys=True))
                found.setdefault(name, {}).setdefault(text, []).append(TASKS[task].title)
    words = []
    for name, values in found.items():
        if len(values) == 1 and len(next(iter(values.values()))) == len(row.cells):
            words.append(f"{name} {next(iter(values))}")
        else:
            words.append(f"{name} " + ", ".join(f"{text} ({' '.join(tasks)})" for text, tasks in values.items()))
    return "; ".join(words)


def _published_notes(rows: Sequence[PublishedRow]) -> list[str]:
    notes: dict[str, None] = {}
    for row in rows:
        metrics = ", ".join(f"{TASKS[task].title} {row.metrics[task]}" for task in TASKS if task in row.scores)
        arxiv = f" (arXiv:{row.arxiv})" if row.arxiv else ""
        average = "" if len(row.scores) == len(TASKS) else f"; Avg over these {len(row.scores)} tasks"
        notes[f"{row.source}{arxiv}: {row.split}, {row.statistic}; {metrics}{average}."] = None
        notes |= {f"{row.source}: {remark}": None for remark in row.remarks}
        for doubt in filter(None, (row.setup, row.caution)):
            notes[f"{row.source}, {row.method} on {row.model} ({row.params}): {doubt}."] = None
    return list(notes)


def _marked_last(rows: Sequence[Row]) -> list[tuple[bool, Row]]:
    """Each row, with whether it is the last one of its variant."""
    following = [*rows[1:], None]
    return [(after is None or after.variant != row.variant, row) for row, after in zip(rows, following, strict=True)]


# ---- console ----------------------------------------------------------------------------------------------------


def to_text(sections: Sequence[Section]) -> str:
    """A short table per section for 80 columns: only the tasks that were run, each row's name on a line of its own."""
    return "\n\n".join(_section_text(section) for section in sections)


def _section_text(section: Section) -> str:
    tasks = list(_first_cells(section))
    named = [("", [*(TASKS[task].title for task in tasks), "Avg"])]
    for last, row in _marked_last(section.rows):
        scores = [score_text(row.cells.get(task)) + _start_mark(row.cells.get(task)) for task in tasks]
        named.append((_row_title(row), [*scores, _average(row)]))
        for paper in section.beside(row.variant) if last else ():
            average = "" if paper.average is None else f"{paper.average:g}"
            name = f"published: {paper.method} on {paper.model} ({paper.source}), {paper.params}"
            named.append((name, [*(published_text(paper, task) for task in tasks), average]))
    columns = len(tasks) + any(_average(row) for row in section.rows)  # no Avg beside rows that have none
    named = [(name, [cell.replace(" ", "") for cell in cells[:columns]]) for name, cells in named]
    widths = [max(len(cells[column]) for _, cells in named) for column in range(columns)]
    lines = [title(section)]
    for name, cells in named:
        lines += [name] if name else []
        lines.append(" ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    return "\n".join(lines)


def _row_title(row: Row) -> str:
    seeds = span([len(cell.runs) for cell in row.cells.values()], str)
    adapter, head = ([run.parameters[part] for run in row.runs] for part in ("adapter", "head"))
    counts = f"{span(adapter, lambda n: f'{n:,}')} + head {span(head, lambda n: f'{n:,}')}"
    return f"{row.variant} {row.label}".strip() + f" ({row.protocol}; seeds: {seeds}), {counts}"
