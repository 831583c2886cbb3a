"""The page: what was run, tables, charts, files."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from modules.reports.html import charts, rank_maps, tuning
from modules.reports.html.charts import Chart
from modules.reports.html.marks import Marked, marked_rows
from modules.reports.html.tables import table
from modules.reports.tables.cells import devices, title
from modules.reports.tables.section import Section
from modules.reports.tables.significance import Comparison, compare
from modules.runs.results import RunResult

_HERE = Path(__file__).parent
WITHOUT_LIBRARY = "The charts are missing: they need the package vl-convert-python (pip install vl-convert-python)."


def page(name: str, sections: Sequence[Section], library: str | None) -> str:
    """The HTML of a results folder.

    Args:
        name: of the folder, for the heading.
        sections: of all benchmarks.
        library: the script of the charts; None leaves them out and says so.
    """
    bodies, specs = [], {}
    for number, section in enumerate(sections, start=1):
        marked, comparisons = marked_rows(section), compare(section)
        groups = _groups(section, marked, comparisons) if library else []
        for _, found in groups:
            specs |= {_chart_id(number, chart): chart.spec for chart in found}
        bodies.append(_section(number, section, marked, comparisons, groups))
    style, script = ((_HERE / file).read_text(encoding="utf-8") for file in ("style.css", "page.js"))
    data = json.dumps(specs, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    heading = f"Results: {name}"
    contents = "".join(
        f'<li><a href="#section-{number}">{_e(section.benchmark.title)}: {_e(title(section))}</a></li>'
        for number, section in enumerate(sections, start=1)
    )
    note = "" if library else f'<p class="note">{_e(WITHOUT_LIBRARY)}</p>'
    charts_script = f"<script>{library}</script>" if library else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{_e(heading)}</title><style>{style}</style></head><body>"
        f"<header><h1>{_e(heading)}</h1>{note}<nav><ul>{contents}</ul></nav></header>"
        f"<main>{''.join(bodies)}</main>"
        "<footer><p>Written from result files by <code>lora-variants report</code>. All figures are in "
        "<code>tables/</code> as CSV, Markdown and LaTeX.</p></footer>"
        f'<script type="application/json" id="charts">{data}</script>{charts_script}<script>{script}</script>'
        "</body></html>\n"
    )


def _groups(section: Section, marked: list[Marked], comparisons: Sequence[Comparison]) -> list[tuple[str, list[Chart]]]:
    """(heading, charts) of a section; none without charts."""
    found = (
        ("Score against cost", list(charts.against_costs(section, marked))),
        ("Differences", list(charts.differences(comparisons, marked))),
        ("Scores over the epochs", list(charts.curves(section, marked))),
        ("Ranks that AdaLoRA leaves", list(rank_maps.rank_maps(section, marked))),
        (
            "How settings were found",
            list(chain(tuning.rate_curves(section, marked), tuning.tuning_cost(section, marked))),
        ),
    )
    return [(heading, own) for heading, own in found if own]


def _section(
    number: int,
    section: Section,
    marked: list[Marked],
    comparisons: Sequence[Comparison],
    groups: Sequence[tuple[str, list[Chart]]],
) -> str:
    name = f"{section.benchmark.title}: {title(section)}"
    legend = ""
    if groups:
        chips = "".join(
            f'<button type="button" aria-pressed="true" data-row="{_e(one.name)}">'
            f'<span class="dot" style="background:{_e(one.colour)}"></span>{_e(one.name)}</button>'
            for one in marked
        )
        legend = (
            f'<div class="legend" role="group" aria-label="rows in the charts"><p>Rows in the charts:</p>{chips}'
            '<button type="button" class="all">all</button><button type="button" class="none">none</button></div>'
        )
    figures = "".join(
        f'<h3>{_e(heading)}</h3><div class="charts">{"".join(_figure(number, chart) for chart in found)}</div>'
        for heading, found in groups
    )
    published = any(section.published)
    switch = '<label><input type="checkbox" class="published-too" checked> published rows</label>' if published else ""
    return (
        f'<section id="section-{number}"><h2>{_e(name)}</h2>{_what_was_run(section)}'
        f'<div class="controls"><label>Filter <input type="search" class="filter" '
        f'placeholder="method, r=8, ..."></label>{switch}<span class="count" aria-live="polite"></span></div>'
        f"{table(section, marked, comparisons, number)}{_remarks(section)}{legend}{figures}</section>"
    )


def _what_was_run(section: Section) -> str:
    runs = [run for row in section.rows for run in row.runs]
    seeds = sorted({run.seed for run in runs})
    times = sorted(filter(None, (str(run.environment.get("time", ""))[:10] for run in runs)))
    facts = {
        "Backbone": f"{section.backbone['name']} ({section.backbone['source']})",
        "Data": f"{section.data['name']} ({section.data['source']})",
        "Tasks": ", ".join(
            section.benchmark.tasks[t].title for t in section.benchmark.tasks if any(r.task == t for r in runs)
        ),
        "Protocols": ", ".join(sorted({row.protocol for row in section.rows})),
        "Runs": f"{len(runs)}, seeds {', '.join(map(str, seeds))}",
        "Devices": devices(runs),
        "Dates": f"{times[0]} to {times[-1]}" if times else "",
        "Time": f"{sum(run.seconds for run in runs) / 3600:.1f} hours of runs",
        "Without a score": _faults(runs),
    }
    return "<dl>" + "".join(f"<div><dt>{_e(k)}</dt><dd>{_e(v)}</dd></div>" for k, v in facts.items() if v) + "</dl>"


def _faults(runs: Sequence[RunResult]) -> str:
    counts = {"diverged": sum(run.diverged for run in runs), "truncated": sum(run.truncated for run in runs)}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def _remarks(section: Section) -> str:
    found = [f"{row.variant} {row.label}: {remark}" for row in section.rows for remark in row.remarks]
    if not found:
        return ""
    items = "".join(f"<li>{_e(remark)}</li>" for remark in found)
    return f"<details><summary>{len(found)} remarks</summary><ul>{items}</ul></details>"


def _chart_id(number: int, chart: Chart) -> str:
    return f"chart-{number}-{chart.name}"


def _figure(number: int, chart: Chart) -> str:
    place = _chart_id(number, chart)
    options = "".join(f"<option>{_e(name)}</option>" for name in chart.choices)
    choice = f'<label>minus <select data-chart="{place}">{options}</select></label>' if chart.choices else ""
    return (
        f'<figure class="{"wide" if chart.wide else ""}" aria-labelledby="{place}-title">'
        f'<figcaption><h4 id="{place}-title">{_e(chart.title)}</h4><p>{_e(chart.words)}</p>{choice}'
        f'<button type="button" class="data" data-chart="{place}" data-name="{_e(chart.name)}">data (CSV)</button>'
        f'</figcaption><div class="chart" id="{place}" role="img" aria-label="{_e(f"{chart.title}. {chart.words}")}">'
        "</div></figure>"
    )


def _e(text: str) -> str:
    return html.escape(str(text))
