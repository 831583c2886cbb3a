"""Score against trained parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modules.reports.plots.layout import add_legend, name_of, new_figure, spread_note, summed_columns, window
from modules.reports.plots.style import Style, styles
from modules.reports.tables.section import Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (7.2, 4.4)
"""Of the axes, in inches, for up to `MANY` rows."""
MANY = 30
MARKER = 7.0
"""Points (1/72 inch) across a marker."""
WRITTEN = 20.0
"""Of the score beside a marker."""


@dataclass
class Point:
    """A row: its parameters, score and spread, and its place on the x axis (log10 of parameters), which is shifted a
    little where points would cover one another; and the height of its marker where that is not the score's."""

    parameters: int
    score: float
    spread: float | None
    style: Style
    x: float = 0.0
    height: float | None = None

    @property
    def y(self) -> float:
        """Where its marker is."""
        return self.score if self.height is None else self.height

    @property
    def low(self) -> float:
        """The lower end of its error bar."""
        return self.score - (self.spread or 0.0)

    @property
    def high(self) -> float:
        """The upper end of its error bar."""
        return self.score + (self.spread or 0.0)


def pareto(section: Section) -> Figure:
    """Score against trained parameters, with the Pareto front: rows that no other row beats in both.

    Points of one method are joined in the order of its sizes, which the legend lists. Rows whose scores are far below
    the others' stand under the axis, with their scores.
    """
    columns = summed_columns(section)
    size = (SIZE[0], SIZE[1] * heights(section))
    figure, (ax,) = new_figure(section, "Score against trained parameters", 1, 1, size)
    inside, below = _points(section)
    points = inside + below
    low, high = window([point.score for point in points]) if points else (0.0, 1.0)
    margin = 0.06 * (max((p.high for p in inside), default=high) - min((p.low for p in inside), default=low)) or 1.0
    bottom, top = min((p.low for p in inside), default=low) - margin, max((p.high for p in inside), default=high)
    ax.set_ylim(bottom - (2 * margin if below else 0), top + margin)
    for point in below:
        point.height = bottom - margin
    _scale(ax, points)
    spread_out(inside, ax, size)
    spread_out(below, ax, size, MARKER + WRITTEN)
    _front(ax, inside)
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(point.style.group, []).append(point)
    for group in dict.fromkeys(style.group for style in styles(section) if style.group in groups):
        own = sorted(groups[group], key=lambda point: point.parameters)
        shown = [point for point in own if point in inside]
        style = own[0].style
        if len(shown) > 1:
            ax.plot([10**p.x for p in shown], [p.score for p in shown], "-", color=style.colour, lw=0.8, alpha=0.5)
        label = " ".join([group, ", ".join(point.style.size for point in own if point.style.size)]).strip()
        for point in own:
            error = point.spread if point in inside else None
            bars = {"capsize": 2, "elinewidth": 0.8, "ms": MARKER, "ls": "", "label": _short(label)}
            ax.errorbar(10**point.x, point.y, yerr=error, **style.drawn(), **bars)
    if below:
        ax.axhline(bottom, color="#999999", lw=0.8, ls=":")
        for point in below:
            text = {"xytext": (7, 0), "textcoords": "offset points", "va": "center", "fontsize": 7}
            ax.annotate(f"{point.score:.1f}", (10**point.x, point.y), **text)
        ax.set_yticks([tick for tick in ax.get_yticks() if bottom <= tick <= top + margin])
    ax.set_xlabel("trained adapter parameters, without the head (logarithmic)")
    ax.set_ylabel(name_of(columns))
    notes = [spread_note(section)]
    notes += ["of equal size: side by side"] if any(abs(p.x - _log(p, points)) > 1e-9 for p in points) else []
    notes += ["below the dotted line: scores off the axis"] if below else []
    add_legend(figure, [ax], "; ".join(notes))
    return figure


def _points(section: Section) -> tuple[list[Point], list[Point]]:
    """(the rows on the axes, those whose scores are far below)."""
    columns = summed_columns(section)
    points = [
        Point(max(run.parameters["adapter"] for run in row.runs), *row.mean(columns), style)
        for row, style in zip(section.rows, styles(section), strict=True)
    ]
    points = [point for point in points if not math.isnan(point.score)]
    low = window([point.score for point in points])[0] if points else 0.0
    return [p for p in points if p.score >= low], [p for p in points if p.score < low]


def beneath(section: Section) -> int:
    """How many rows stand under the axis."""
    return len(_points(section)[1])


def heights(section: Section) -> float:
    """How many times `SIZE` the axes are high: many rows would push one another far aside."""
    return max(1.0, len(section.rows) / MANY)


def _short(label: str) -> str:
    """A legend's label, with the name of the size once: `lora r=2, r=8` is `lora r=2, 8`."""
    first, *others = label.split(", ")
    name = first.rpartition(" ")[2].partition("=")[0]
    return ", ".join([first, *(other.removeprefix(f"{name}=") for other in others)])


def _log(point: Point, points: Sequence[Point]) -> float:
    """log10 of a point's parameters; a logarithmic axis has no 0, which is drawn to the left of all other points."""
    smallest = min((p.parameters for p in points if p.parameters), default=10)
    return math.log10(point.parameters) if point.parameters else math.log10(smallest) - 0.5


def _scale(ax: Axes, points: Sequence[Point]) -> None:
    """Set the x axis, and the places of the points on it."""
    for point in points:
        point.x = _log(point, points)
    places = [point.x for point in points] or [1.0]
    ax.set_xscale("log")
    ax.set_xlim(10 ** (min(places) - 0.2), 10 ** (max(places) + 0.2))
    sizes = [point.x for point in points if point.parameters] or [1.0]
    decades = range(math.ceil(min(sizes) - 0.15), math.floor(max(sizes) + 0.15) + 1)
    ticks = {10.0**k: counted(10**k) for k in decades}
    for point in points:
        if not point.parameters:
            ticks = {10**point.x: "0"} | ticks
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.minorticks_off()


def counted(number: int) -> str:
    """A round number of parameters: 10K, 1M."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number // size}{letter}"
    return str(number)


def spread_out(points: Sequence[Point], ax: Axes, size: tuple[float, float] = SIZE, apart: float = MARKER + 1) -> None:
    """Shift points aside, by as little as keeps their markers apart, from the lowest score to the highest.

    Args:
        size: of the axes, in inches.
        apart: points (1/72 inch) from a marker to the next.
    """
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    across = 72 * size[0] * 0.88 / (math.log10(right) - math.log10(left))  # points of paper for a decade
    up = 72 * size[1] * 0.88 / (top - bottom)
    step, placed = 1.5 * apart / (MARKER + 1) / across, []
    for point in sorted(points, key=lambda p: (p.score, p.style.label)):
        for number in range(8 * len(points)):
            x = point.x + step * ((number + 1) // 2) * (1 if number % 2 else -1)
            if all(math.hypot((x - a) * across, (point.y - b) * up) > apart for a, b in placed):
                break
        point.x = x
        placed.append((x, point.y))


def _front(ax: Axes, points: Sequence[Point]) -> None:
    """Draw the line of the points that no other beats in both."""
    front = {
        (p.parameters, p.score, _log(p, points))
        for p in points
        if not any(
            q.parameters <= p.parameters and q.score >= p.score and (q.parameters, q.score) != (p.parameters, p.score)
            for q in points
        )
    }
    if len(front) > 1:
        xs, ys = zip(*((10**x, score) for _, score, x in sorted(front)), strict=True)
        ax.step(xs, ys, where="post", color="#999999", lw=1.2, ls="--", zorder=1, label="Pareto front")
