"""The trials of compare.py as tables: each method's best learning rate beside LoRA's, and what finding it cost."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from modules.paths import PUBLISHED
from modules.reports.tables.cells import peak_mb, pipes, step_ms, title, with_commas
from modules.reports.tables.published import load_rates
from modules.reports.tables.rate_curves import RateCurve, nearest_reference, ratio, unequal
from modules.reports.tables.section import Section

CSV_COLUMNS = ("backbone", "data", "variant", "label", "parameters", "lr", "seed", "task", "score", "trained", "run")


def rates_markdown(sections: Sequence[Section]) -> str:
    """A table for each section that has trials, and how to read it."""
    parts = ["# Learning rates and the cost of tuning"]
    for section in (section for section in sections if section.curves):
        parts += [f"## {title(section)}", _table(section), "\n".join(f"- {note}" for note in _notes(section))]
    return "\n\n".join(parts) + "\n"


def _table(section: Section) -> str:
    head = ["Method", "Trained", "Rates tried", "Best", "Score there", "x LoRA's", "Published"]
    lines = [[*head, "Without a score", "Trials", "Tuning s", "Steps", "Step ms", "Peak MB"]]
    published = {row["variant"]: row["below"] for row in load_rates(PUBLISHED).rows}
    for curve in section.curves:
        name = f"{curve.variant} `{curve.label}`" if curve.label else curve.variant
        best = curve.best
        lines.append([
            name,
            with_commas(curve.parameters),
            f"{len(curve.by_rate)}: {min(curve.by_rate):g} to {max(curve.by_rate):g}",
            "-" if best is None else f"{best:g}" + (" (an end)" if curve.at_an_end else ""),
            "-" if best is None else _score(curve, best),
            _ratio(curve, section),
            f"1/{published[curve.variant]:g}" if curve.variant in published else "",
            ", ".join(f"{rate:g}" for rate in curve.without_score),
            _trials(curve),
            f"{curve.seconds:,.0f}",
            with_commas(curve.steps),
            step_ms(curve.runs),
            peak_mb(curve.runs),
        ])  # fmt: skip
    return pipes(lines)


def _trials(curve: RateCurve) -> str:
    """How many there are, and of how many where some do not choose."""
    numbers = dict.fromkeys((curve.chosen_among, len(curve.runs)))
    return " of ".join(map(str, numbers))


def _score(curve: RateCurve, rate: float) -> str:
    digits = 4 if curve.rule.metric == "loss" else 2
    return f"{curve.score(rate):.{digits}f}"


def _ratio(curve: RateCurve, section: Section) -> str:
    if (found := ratio(curve, section.curves)) is None or nearest_reference(curve, section.curves) is curve:
        return ""
    return f"{found:.3g}" if found >= 1 else f"1/{1 / found:.3g}"


def _notes(section: Section) -> list[str]:
    runs = [run for curve in section.curves for run in curve.runs]
    titles = [task.title for name, task in section.benchmark.tasks.items() if name in {run.task for run in runs}]
    seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))
    rates, rule = load_rates(PUBLISHED), section.curves[0].rule
    shared = sum(run.id in {own.id for row in section.rows for own in row.runs} for run in runs)
    whose = f"{shared} of the {len(runs)} trials are runs of that table too."
    if not shared:
        whose = "The trials have seeds or a schedule of their own, and are no runs of that table."
    notes = [
        f"Score: {rule.words}, mean over {', '.join(titles)} and the trials' seeds ({seeds}). It is "
        "the highest of several, which flatters it: the benchmark's own table says how good the methods are.",
        whose,
        "x LoRA's: the best rate divided by that of the LoRA with the nearest number of trained parameters; no finer "
        "than the grid. An end: the best rate is the lowest or the highest that was tried, and better may lie beyond.",
        f"Published: {rates.source} (arXiv:{rates.arxiv}); {'; '.join(rates.remarks)}.",
        "Without a score: rates at which a run diverged or was truncated. Tuning s: wall-clock time of all trials, "
        "that of seeds which were trained at once shared between them; runs that shared a GPU count in full.",
    ]
    if beside := len(runs) - sum(curve.chosen_among for curve in section.curves):
        notes.append(
            f"{beside} of the trials are at rates that a row's list had before it moved on by a step (Trials: 60 of 72 "
            "and the like). They do not choose, but they are why it moved."
        )
    return notes + list(filter(None, [unequal(section.curves)]))


def rates_csv(sections: Sequence[Section]) -> str:
    """A line for each trial: the rate curves as data, in the units of the table."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for section in sections:
        for curve in section.curves:
            for rate, runs in curve.by_rate.items():
                for run in runs:
                    writer.writerow(_line(section.backbone, section.data, curve, rate, run))
    return out.getvalue()


def _line(backbone: Mapping, data: Mapping, curve: RateCurve, rate: float, run) -> list[object]:
    score = curve.rule.printed(run)
    shown = "" if score is None else round(score, 6)
    place = [backbone["name"], data["name"], curve.variant, curve.label, curve.parameters]
    return [*place, f"{rate:g}", run.seed, run.task, shown, rate in curve.trained, run.id]
