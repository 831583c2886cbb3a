"""Charts of scores as Vega-Lite specifications: score against cost, curves over epochs, differences between rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from modules.reports.html.marks import Marked, scales
from modules.reports.plots.layout import name_of, summed_columns
from modules.reports.tables.section import Row, Section
from modules.reports.tables.significance import Comparison

SHOWN = {"name": "shown", "value": None}
"""The rows that the page's legend leaves in the charts; null: all."""
IS_SHOWN = {"filter": "!shown || !datum.row || indexof(shown, datum.row) >= 0"}
SHORT = (
    "datum.value >= 1e6 ? datum.value / 1e6 + 'M' : datum.value >= 1e4 ? datum.value / 1e3 + 'K' : "
    "format(datum.value, '~g')"
)
"""Vega's expression of an axis's labels: 20K, 3M."""
FEW = 8
"""The most curves whose bands are shown."""
CURVE = f"Line: median over the seeds; band, with up to {FEW} rows: their range. Point at a line to follow it."


@dataclass(frozen=True)
class Chart:
    """A chart of the page.

    Attributes:
        name: of its files.
        title, words: heading, and a line on how to read it.
        spec: the Vega-Lite specification, whose ``data.values`` hold all that is shown.
        choices: of the row that others are compared with, where the reader chooses one.
        wide: whether it takes the whole width of the page.
    """

    name: str
    title: str
    words: str
    spec: dict[str, Any]
    choices: tuple[str, ...] = ()
    wide: bool = False


def base(values: list[dict[str, Any]], height: int = 260) -> dict[str, Any]:
    """What all charts have: their data, the width of their place, and the rows that are shown.

    Args:
        values: whose ``row`` names the row of the table; without it a value is always shown.
    """
    return {
        "data": {"values": values},
        "width": "container",
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
        "params": [SHOWN],
        "transform": [IS_SHOWN],
    }


def tooltip(*fields: str) -> list[dict[str, str]]:
    """What pointing at a mark shows."""
    return [{"field": name} for name in fields]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value]
    return statistics.median(known) if known else None


COSTS: dict[str, tuple[str, Callable[[Row], float | None]]] = {
    "trained parameters": (
        "trained adapter parameters, without the head",
        lambda row: max(run.parameters["adapter"] for run in row.runs),
    ),
    "time of a step, ms": (
        "time of a training step, ms",
        lambda row: _median([run.cost.get("step_ms") for run in row.runs]),
    ),
    "peak memory, MB": (
        "peak memory of a run, MB",
        lambda row: max((run.cost.get("peak_memory_mb") or 0 for run in row.runs), default=0) or None,
    ),
}
"""Column of the data -> (title of the axis, what a row costs)."""


def against_costs(section: Section, marked: list[Marked]) -> Iterator[Chart]:
    """The mean score of each row against parameters, step time and memory."""
    columns = summed_columns(section)
    if not columns:
        return
    what, values = name_of(columns), []
    for one in marked:
        centre, spread = one.row.mean(columns)
        if math.isnan(centre):
            continue
        value = {"row": one.name, "score": round(centre, 3), "spread": spread and round(spread, 3)}
        value |= {name: cost for name, (_, of) in COSTS.items() if (cost := of(one.row)) is not None}
        value |= {"low": round(centre - (spread or 0), 3), "high": round(centre + (spread or 0), 3)}
        values.append(value)
    for number, (name, (title, _)) in enumerate(COSTS.items()):
        own = [value for value in values if name in value]
        if len(own) < 2:
            continue
        x = {"field": name, "type": "quantitative", "title": title, **_logarithmic([value[name] for value in own])}
        y = {"type": "quantitative", "title": what if len(columns) == 1 else "mean score", "scale": {"zero": False}}
        marks = scales(marked)
        spec = base(own) | {
            "encoding": {"x": x, "color": marks["color"]},
            "layer": [
                {
                    "mark": {"type": "rule", "opacity": 0.6},
                    "encoding": {"y": y | {"field": "low"}, "y2": {"field": "high"}},
                },
                {
                    "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
                    "encoding": {
                        "y": y | {"field": "score"},
                        "shape": marks["shape"],
                        "tooltip": tooltip("row", "score", "spread", name),
                    },
                },
            ],
        }
        words = f"Score: {what}. Lines: standard deviation over the seeds. Upper left is better."
        if number:
            words += " Runs that shared a machine or a step with others cost more or less than alone: see the table."
        yield Chart(f"score-against-{name.split(',')[0].replace(' ', '-')}", f"Score against {name}", words, spec)


def _logarithmic(values: Sequence[float]) -> dict[str, Any]:
    """Scale and axis of values of which some may be 0."""
    smallest, largest = min((value for value in values if value), default=1), max(values) or 1
    decades = range(math.floor(math.log10(smallest)), math.ceil(math.log10(largest)) + 1)
    factors = (1,) if len(decades) > 3 else (1, 2, 5)
    ticks = [k * 10.0**decade for decade in decades for k in factors]
    ticks = [tick for tick in ticks if 0.8 * smallest <= tick <= 1.25 * largest]
    scale = {"type": "symlog", "constant": smallest / 3} if 0 in values else {"type": "log"}
    ticks = [0, *ticks] if 0 in values else ticks
    return {"scale": scale | {"nice": False, "padding": 12}, "axis": {"values": ticks, "labelExpr": SHORT}}


def curves(section: Section, marked: list[Marked]) -> Iterator[Chart]:
    """The dev metric after each epoch, a chart for each task."""
    for task in section.benchmark.tasks:
        values = []
        for one in marked:
            for number, scores in one.row.by_epoch(task).items():
                value = {"row": one.name, "epoch": number, "score": round(statistics.median(scores), 3)}
                values.append(value | {"low": round(min(scores), 3), "high": round(max(scores), 3)})
        if not values:
            continue
        metric = next(run.metric for one in marked for run in one.row.by_task.get(task, ()))
        y = {"type": "quantitative", "scale": {"zero": False}, "title": f"dev {metric}"}
        x = {"field": "epoch", "type": "quantitative", "axis": {"tickMinStep": 1}, "scale": {"nice": False}}
        few = f"(shown ? length(shown) : {len({value['row'] for value in values})}) <= {FEW}"
        pointed = {"name": "pointed", "select": {"type": "point", "fields": ["row"], "on": "pointerover"}}
        faint = {"condition": {"param": "pointed", "value": 1}, "value": 0.15}
        channels = scales(marked)
        spec = base(values, 220) | {
            "encoding": {"x": x, "color": channels["color"]},
            "layer": [
                {
                    "mark": {"type": "area", "opacity": {"expr": f"{few} ? 0.12 : 0"}},
                    "encoding": {"y": y | {"field": "low"}, "y2": {"field": "high"}},
                },
                {
                    "params": [pointed],
                    "mark": {"type": "line", "strokeWidth": 1.8},
                    "encoding": {
                        "y": y | {"field": "score"},
                        "opacity": faint,
                        "strokeDash": channels["strokeDash"],
                    },
                },
                {
                    "mark": {"type": "point", "filled": True, "size": 35},
                    "encoding": {
                        "y": y | {"field": "score"},
                        "shape": channels["shape"],
                        "opacity": faint,
                        "tooltip": tooltip("row", "epoch", "score", "low", "high"),
                    },
                },
            ],
        }
        title = section.benchmark.tasks[task].title
        yield Chart(f"curves-{task}", title, CURVE, spec)


def differences(comparisons: Sequence[Comparison], marked: list[Marked]) -> Iterator[Chart]:
    """Differences of all rows from one that the reader chooses, with intervals: a chart for each comparison of the
    section."""
    for number, comparison in enumerate(comparisons):
        values = []
        for d in comparison.differences:
            told = "told apart" if d.supported else "not told apart"
            low, high = (value if math.isfinite(value) else None for value in (d.low, d.high))
            for first, second, sign in ((d.first, d.second, 1), (d.second, d.first, -1)):
                ends = sorted(sign * value for value in (low, high) if value is not None)
                value = {"row": marked[first].name, "against": marked[second].name, "difference": sign * d.mean}
                value |= dict(zip(("low", "high"), ends, strict=False)) | {"p (Holm)": d.corrected, "verdict": told}
                values.append({k: round(v, 4) if isinstance(v, float) else v for k, v in value.items()})
        what = name_of(comparison.columns)
        ranked = [marked[row].name for row in comparison.rows]
        x = {"type": "quantitative", "title": "difference"}
        colour = {"field": "verdict", "type": "nominal", "title": None, "legend": {"orient": "top"}}
        colour["scale"] = {"domain": ["told apart", "not told apart"], "range": ["#0072B2", "#909090"]}
        y = {"field": "row", "type": "nominal", "title": None, "sort": ranked, "axis": {"labelLimit": 240}}
        spec = base(values, 90 + 20 * len(ranked))
        spec["params"] = [SHOWN, {"name": "against", "value": _reference(ranked, marked)}]
        spec["transform"] = [IS_SHOWN, {"filter": "datum.against == against"}]
        spec |= {
            "encoding": {"y": y, "color": colour},
            "layer": [
                {"mark": {"type": "rule"}, "encoding": {"x": {"datum": 0}, "color": {"value": "#888888"}, "y": None}},
                {
                    "mark": {"type": "rule", "strokeWidth": 2},
                    "encoding": {"x": x | {"field": "low"}, "x2": {"field": "high"}},
                },
                {
                    "mark": {"type": "point", "filled": True, "size": 60},
                    "encoding": {
                        "x": x | {"field": "difference"},
                        "tooltip": tooltip("row", "against", "difference", "low", "high", "p (Holm)", "verdict"),
                    },
                },
            ],
        }
        best = "No row is told apart from all others."
        if comparison.winner is not None:
            above = "below" if comparison.less_is_better else "above"
            best = f"{marked[comparison.winner].name} is {above} every other row."
        words = (
            f"{best} Each row minus the chosen one, paired by task and seed (seeds "
            f"{', '.join(map(str, comparison.seeds))}). Intervals hold for all pairs together (Holm, 95 %): one "
            "without 0 is a difference that the spread supports; not told apart is not equal."
        )
        yield Chart(f"differences-{number + 1}", f"Differences: {what}", words, spec, tuple(ranked), wide=True)


def _reference(ranked: list[str], marked: list[Marked]) -> str:
    """The row that others are compared with at first: the best LoRA, else the best."""
    variants = {one.name: one.row.variant for one in marked}
    return next((name for name in ranked if variants[name] == "lora"), ranked[0])
