"""The picture of a search: for each row the importance of its dimensions, and the scores along the largest of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from modules.comparison.comparison import Comparison, Row
from modules.comparison.importance import importance
from modules.comparison.space import Dimension, text
from modules.comparison.trials import Trial, Trials, best, faults
from modules.runs.score_form import form

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALONG = 3
"""Most dimensions of a row whose scores are drawn."""
BLUE, RED = "#0072B2", "#D55E00"


def draw(figure: Figure, comparison: Comparison, rows: Sequence[Row], trials: Trials) -> None:
    """Fill a figure: a line of panels for each row; trials without a score are left out, and counted."""
    widest = min(ALONG, max(len(row.space) for row in rows))
    panels = figure.subplots(len(rows), 1 + widest, squeeze=False)
    for row, axes in zip(rows, panels, strict=True):
        good = [each for each in trials[row.name] if each.score is not None]
        found = importance(row.space, good)
        order = sorted(row.space, key=lambda each: -found.shares.get(each.key, 0))
        _bars(axes[0], row, found.shares, found.words, faults(trials[row.name]))
        for axis, dimension in zip(axes[1:], order[:widest], strict=False):
            _along(axis, dimension, good, comparison.content.tune.metric)
        axes[1].set_ylabel(_units(comparison.content.tune.metric, good)[1])
        for axis in axes[1 + len(order) :]:
            axis.set_visible(False)


def _units(metric: str | None, trials: Sequence[Trial]) -> tuple[float, str]:
    """(factor, label) of a score's axis."""
    if metric == "loss":
        return -1.0, "dev loss"
    name = metric or next((each.metric for each in trials), "")
    scale = form(name)[0]
    return scale, "dev score (%)" if scale == 100 else f"dev {name}"


def _bars(axis: Axes, row: Row, shares: dict[str, float], about: str, left_out: str) -> None:
    more = f", {left_out}" if left_out else ""
    axis.set_title(f"{row.name}{more}\nimportance ({about.partition(':')[0]})", loc="left")
    names = list(reversed(shares))
    axis.barh(names, [100 * shares[name] for name in names], color=BLUE, height=0.6)
    for place, name in enumerate(names):
        axis.annotate(
            f"{shares[name]:.0%}", (100 * shares[name], place), (3, 0), textcoords="offset points", va="center"
        )
    axis.set_xlim(0, 118)
    axis.set_xlabel("%")
    if not names:
        axis.set_yticks([])
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _along(axis: Axes, dimension: Dimension, trials: Sequence[Trial], metric: str | None) -> None:
    """Scores over the values of a dimension; numbers that span a factor of four or more on a log axis."""
    scale = _units(metric, trials)[0]
    values = [each.point[dimension.key] for each in trials]
    numbers = all(type(value) in (int, float) for value in [*values, *dimension.examples])
    log = numbers and min(dimension.examples) > 0 and max(dimension.examples) >= 4 * min(dimension.examples)
    names = [] if numbers else [text(value) for value in dimension.values]
    places = values if numbers else [names.index(text(value)) for value in values]
    axis.scatter(places, [scale * each.score for each in trials], s=16, color=BLUE, alpha=0.7, linewidths=0)
    if top := best(list(trials)):
        place = places[list(trials).index(top)]
        axis.scatter([place], [scale * top.score], s=45, marker="*", color=RED, zorder=3, label="best")
        axis.legend(loc="best", frameon=False, handletextpad=0.1)
    if log:
        axis.set_xscale("log")
    if numbers and dimension.values:
        axis.set_xticks(dimension.values, [text(value) for value in dimension.values])
        axis.minorticks_off()
    elif not numbers:
        axis.set_xticks(range(len(names)), names)
        axis.set_xlim(-0.5, len(names) - 0.5)
    axis.margins(x=0.12)
    axis.set_xlabel(dimension.key)
    axis.grid(alpha=0.3)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
