"""Score against learning rate, for each method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modules.reports.plots.layout import add_legend, new_figure
from modules.reports.plots.palette import marks
from modules.reports.tables.rate_curves import REFERENCE, RateCurve
from modules.reports.tables.section import Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 5
"""Most facets side by side."""
LINES = ("-", "--", ":", "-.")
"""Of a method's sizes, from the smallest."""


def rates(section: Section) -> Figure:
    """A facet for each method: the mean over tasks and seeds at each learning rate, and each seed's mean as a point."""
    groups: dict[str, list[RateCurve]] = {}
    for curve in section.curves:
        groups.setdefault(curve.variant, []).append(curve)
    across = min(ACROSS, len(groups))
    rows = -(-len(groups) // across)
    figure, axes = new_figure(section, "Score against learning rate", rows, across, (2.6, 1.9))
    low, high = _window(section.curves)
    every = sorted({rate for curve in section.curves for rate in curve.by_rate})
    colours = marks(groups)
    for number, (ax, (variant, curves)) in enumerate(zip(axes, groups.items(), strict=False)):
        for curve in groups.get(REFERENCE, ()) if variant != REFERENCE else ():
            ax.plot(*_means(curve), color="#bbbbbb", lw=1.0, zorder=1)
        for line, curve in zip(LINES, sorted(curves, key=lambda curve: curve.parameters), strict=False):
            _curve(ax, curve, colours[variant].colour, line)
        ax.set_title(variant, fontsize=9)
        ax.set_xscale("log")
        ax.set_xlim(every[0] / 1.5, every[-1] * 1.5)
        ax.minorticks_off()
        ax.set_ylim(low, high)
        if number + across >= len(groups):
            ax.set_xlabel("learning rate", fontsize=8)
    for ax in axes[len(groups) :]:
        ax.remove()
    add_legend(figure, [], "; ".join(_notes(section, groups)))
    return figure


def _curve(ax: Axes, curve: RateCurve, colour: str, line: str) -> None:
    ax.plot(*_means(curve), color=colour, ls=line, lw=1.3)
    for rate in curve.by_rate:
        seeds = curve.by_seed(rate)
        ax.scatter([rate] * len(seeds), list(seeds.values()), s=7, color=colour, alpha=0.6, linewidths=0)
    if (best := curve.best) is not None:
        ax.scatter([best], [curve.score(best)], s=60, marker="*", color=colour, zorder=3)


def _means(curve: RateCurve) -> tuple[list[float], list[float]]:
    found = {rate: score for rate in curve.by_rate if (score := curve.score(rate)) is not None}
    return list(found), list(found.values())


def _window(curves: tuple[RateCurve, ...]) -> tuple[float, float]:
    """The score axis of all facets: without the worst sixth of all means, which would press the rest together."""
    means = sorted(value for curve in curves for value in _means(curve)[1]) or [0.0, 1.0]
    cut = len(means) // 6
    worst_is_high = curves[0].rule.metric == "loss"
    low, high = (means[0], means[-1 - cut]) if worst_is_high else (means[cut], means[-1])
    margin = 0.08 * (high - low) or 1.0
    return low - margin, high + margin


def _notes(section: Section, groups: dict[str, list[RateCurve]]) -> list[str]:
    found = [
        f"{section.curves[0].rule.words} of the trials: line, mean over tasks and seeds; point, a seed; star, best"
    ]
    if any(len(curves) > 1 for curves in groups.values()):
        found.append("of several sizes the smallest has the full line")
    if REFERENCE in groups and len(groups) > 1:
        found.append(f"grey: {REFERENCE}")
    return [*found, "the worst sixth of all means is off the axis"]
