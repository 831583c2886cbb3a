"""Score against trained parameters."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from modules.reports.plots.layout import add_legend, name_of, new_figure, spread_note, summed_columns
from modules.reports.plots.style import styles
from modules.reports.tables.section import Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pareto(section: Section) -> Figure:
    """Score against trained parameters, with the Pareto front: rows that no other row beats in both."""
    columns = summed_columns(section)
    figure, (ax,) = new_figure(section, "Score against trained parameters", 1, 1, (7.2, 4.2))
    points = [(max(run.parameters["adapter"] for run in row.runs), *row.mean(columns)) for row in section.rows]
    smallest = min((p for p, _, _ in points if p), default=1)
    # A logarithmic axis has no 0: it is drawn to the left of all other points.
    zero = 10 ** (math.floor(math.log10(smallest)) - 0.5)
    row_styles = styles(section)
    groups = Counter(style.group for style in row_styles)
    for (parameters, score, spread), s in zip(points, row_styles, strict=True):
        ax.errorbar(
            parameters or zero, score, yerr=spread, fmt=s.marker, color=s.colour, label=s.group, capsize=3, ms=7
        )
        if groups[s.group] > 1:
            offset = {"xytext": (6, 4), "textcoords": "offset points"}
            ax.annotate(s.size, (parameters or zero, score), **offset, fontsize=7, color=s.colour)
    front = [p for p in points if not any(q[0] <= p[0] and q[1] >= p[1] and q[:2] != p[:2] for q in points)]
    front = sorted({(p[0] or zero, p[1]) for p in front if not math.isnan(p[1])})
    if len(front) > 1:
        ax.step(
            *zip(*front, strict=True), where="post", color="#999999", lw=1.2, ls="--", zorder=1, label="Pareto front"
        )
    ax.set_xscale("log")
    largest = max(p for p, _, _ in points) or 10
    decades = [10.0**k for k in range(math.floor(math.log10(smallest)), math.ceil(math.log10(largest)) + 1)]
    ticks = {decade: f"$10^{{{round(math.log10(decade))}}}$" for decade in decades}
    if any(p == 0 for p, _, _ in points):
        ticks = {zero: "0"} | ticks
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.minorticks_off()
    ax.set_xlabel("trained adapter parameters, without the head (logarithmic)")
    ax.set_ylabel(name_of(columns))
    add_legend(figure, [ax], spread_note(section))
    return figure
