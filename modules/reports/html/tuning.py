"""How settings were found: score against learning rate in the trials of compare.py, and what they cost."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from modules.reports.html.charts import Chart, base, tooltip
from modules.reports.html.marks import Marked, scales
from modules.reports.tables.rate_curves import RateCurve
from modules.reports.tables.section import Section
from modules.runs.results import canonical


def _curves_of(section: Section, marked: list[Marked]) -> list[tuple[Marked, RateCurve]]:
    """The section's curves, each with the row whose method and options its trials have."""
    found = []
    for curve in section.curves:
        trial = curve.runs[0]
        for one in marked:
            first = one.row.runs[0]
            if first.variant == trial.variant and canonical(first.variant_config) == canonical(trial.variant_config):
                found.append((one, curve))
                break
    return found


def rate_curves(section: Section, marked: list[Marked]) -> Iterator[Chart]:
    """The score of each row's trials against the learning rate, a chart for each task; chosen rates are large."""
    pairs = _curves_of(section, marked)
    for task in section.benchmark.tasks:
        values, failed = [], 0
        for one, curve in pairs:
            chosen = {run.training.get("lr") for run in one.row.by_task.get(task, ())}
            for rate, runs in curve.by_rate.items():
                scores = [curve.rule.printed(run) for run in runs if run.task == task]
                if None in scores:
                    failed += 1
                elif scores:
                    score = round(statistics.mean(scores), 3)
                    values.append({"row": one.name, "lr": rate, "score": score, "chosen": rate in chosen})
        if len({value["lr"] for value in values}) < 2:
            continue
        x = {"field": "lr", "type": "quantitative", "title": "learning rate", "scale": {"type": "log", "nice": False}}
        x["axis"] = {"format": ".0e", "tickCount": 4}
        y = {"field": "score", "type": "quantitative", "scale": {"zero": False}, "title": pairs[0][1].rule.words}
        channels = scales(marked)
        spec = base(values, 220) | {
            "encoding": {"x": x, "y": y, "color": channels["color"]},
            "layer": [
                {"mark": {"type": "line", "strokeWidth": 1.5}, "encoding": {"strokeDash": channels["strokeDash"]}},
                {
                    "mark": {"type": "point", "filled": True, "opacity": 1},
                    "encoding": {
                        "size": {"condition": {"test": "datum.chosen", "value": 130}, "value": 25},
                        "shape": channels["shape"],
                        "tooltip": tooltip("row", "lr", "score", "chosen"),
                    },
                },
            ],
        }
        words = (
            "The mean over the trials' seeds. Large: the rate that the table's rows train with; at an end of its line, "
            "a wider grid might find a better one."
        )
        words += f" Left out, as a run diverged or was truncated: {failed}." if failed else ""
        yield Chart(f"rates-{task}", section.benchmark.tasks[task].title, words, spec)


def tuning_cost(section: Section, marked: list[Marked]) -> Iterator[Chart]:
    """Hours of tuning and of training, by row."""
    pairs, values = _curves_of(section, marked), []
    if not pairs:
        return
    for one in marked:
        trials = [run for other, curve in pairs if other is one for run in curve.runs]
        tried = {run.id for run in trials}
        trained = [run for run in one.row.runs if run.id not in tried and "trained_as" not in run.cost]
        for what, runs in (("tuning", trials), ("training", trained)):
            hours = sum(run.seconds for run in runs) / 3600
            values.append({"row": one.name, "what": what, "hours": round(hours, 4), "runs": len(runs)})
    colour: dict[str, Any] = {"field": "what", "type": "nominal", "title": None, "legend": {"orient": "top"}}
    colour["scale"] = {"domain": ["tuning", "training"], "range": ["#D55E00", "#0072B2"]}
    y = {"field": "row", "type": "nominal", "title": None, "sort": [one.name for one in marked]}
    spec = base(values, 90 + 16 * len(marked)) | {
        "mark": "bar",
        "encoding": {
            "x": {"field": "hours", "type": "quantitative", "title": "hours of runs"},
            "y": y | {"axis": {"labelLimit": 240}},
            "color": colour,
            "tooltip": tooltip("row", "what", "hours", "runs"),
        },
    }
    words = (
        "Wall-clock time of all runs, added up; the time of seeds that were trained at once is shared between them. "
        "Runs of the table that were trained as trials count as tuning alone."
    )
    yield Chart("tuning-cost", "What tuning cost", words, spec, wide=True)
