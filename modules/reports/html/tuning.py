"""How settings were found: score against learning rate in the tuning runs of compare.py, and what they cost."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from modules.reports.html.charts import Chart, base, tooltip
from modules.reports.html.marks import Marked, scales
from modules.reports.tables.section import Section
from modules.runs.results import RunResult, canonical
from modules.runs.score_form import form


def _row_of(run: RunResult, marked: Sequence[Marked]) -> Marked | None:
    """The row whose method has a run's options: the one that the tuning was for."""
    for one in marked:
        first = one.row.runs[0]
        if first.variant == run.variant and canonical(first.variant_config) == canonical(run.variant_config):
            return one
    return None


def _belonging(section: Section, marked: list[Marked], tuning: Sequence[RunResult]) -> list[tuple[Marked, RunResult]]:
    """Tuning runs of the section's benchmark, backbone and rows, each with its row."""
    place = (section.benchmark.name, section.backbone.get("hash"))
    own = [run for run in tuning if (run.benchmark, run.backbone.get("hash")) == place]
    return [(one, run) for run in own if (one := _row_of(run, marked)) is not None]


def rate_curves(section: Section, marked: list[Marked], tuning: Sequence[RunResult]) -> Iterator[Chart]:
    """The tuning score of each row against the learning rate, a chart for each task; chosen rates are large."""
    pairs = _belonging(section, marked, tuning)
    for task in section.benchmark.tasks:
        scores: dict[tuple[str, float], list[float]] = {}
        failed: set[tuple[str, float]] = set()
        for one, run in pairs:
            rate, score = run.training.get("lr"), run.best.get(run.metric)
            if run.task == task and rate:
                if run.fault or score is None:
                    failed.add((one.name, float(rate)))
                else:
                    scores.setdefault((one.name, float(rate)), []).append(form(run.metric)[0] * score)
        if len({rate for _, rate in scores}) < 2:
            continue
        chosen = {(one.name, run.training.get("lr")) for one in marked for run in one.row.by_task.get(task, ())}
        values = [
            {"row": name, "lr": rate, "score": round(statistics.mean(found), 3), "chosen": (name, rate) in chosen}
            for (name, rate), found in sorted(scores.items())
        ]
        x = {"field": "lr", "type": "quantitative", "title": "learning rate", "scale": {"type": "log", "nice": False}}
        x["axis"] = {"format": ".0e", "tickCount": 4}
        y = {"field": "score", "type": "quantitative", "scale": {"zero": False}, "title": "dev score in tuning"}
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
        words += f" Left out, diverged or truncated: {len(failed)}." if failed else ""
        yield Chart(f"rates-{task}", section.benchmark.tasks[task].title, words, spec)


def tuning_cost(section: Section, marked: list[Marked], tuning: Sequence[RunResult]) -> Iterator[Chart]:
    """Hours of tuning and of training, by row."""
    pairs, values = _belonging(section, marked, tuning), []
    if not pairs:
        return
    for one in marked:
        own = [run for other, run in pairs if other is one]
        for what, runs in (("tuning", own), ("training", one.row.runs)):
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
    words = "Wall-clock time of all runs, added up; the time of seeds that were trained at once is shared between them."
    yield Chart("tuning-cost", "What tuning cost", words, spec, wide=True)
