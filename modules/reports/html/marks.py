"""Colours and shapes of a section's rows: those of all pictures, as Vega-Lite takes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from modules.reports.plots.palette import METHODS
from modules.reports.plots.style import styles
from modules.reports.tables.section import Row, Section


def _polygon(corners: int, turn: float = 0.0, inner: float | None = None) -> str:
    """The path of a regular polygon, or of a star with an inner radius, within 1 of the origin."""
    count, points = corners * (2 if inner else 1), []
    for k in range(count):
        radius = inner if inner and k % 2 else 1.0
        angle = turn + 2 * math.pi * k / count
        points.append(f"{radius * math.sin(angle):.3f},{-radius * math.cos(angle):.3f}")
    return "M" + "L".join(points) + "Z"


SHAPES = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle-up",
    "v": "triangle-down",
    "<": "triangle-left",
    ">": "triangle-right",
    "P": "cross",
    "X": "M-.9,-.5L-.5,-.9L0,-.4L.5,-.9L.9,-.5L.4,0L.9,.5L.5,.9L0,.4L-.5,.9L-.9,.5L-.4,0Z",
    "*": _polygon(5, inner=0.45),
    "p": _polygon(5),
    "h": _polygon(6),
    "H": _polygon(6, math.pi / 6),
    "8": _polygon(8, math.pi / 8),
    "d": "M0,-1L.6,0L0,1L-.6,0Z",
}
"""matplotlib's markers -> Vega's shapes; letters have a star each, as Vega draws none."""
_LETTERS = sorted({mark.marker for mark in METHODS.values()} - set(SHAPES))
SHAPES |= {
    letter: _polygon(3 + number % 6, inner=(0.3, 0.6, 0.2, 0.75)[number // 6 % 4], turn=0.2 * (number // 24))
    for number, letter in enumerate(_LETTERS)
}
DASHES = {"-": [1, 0], "--": [6, 3], "-.": [6, 3, 1, 3], ":": [2, 2]}
"""matplotlib's line styles -> Vega's."""


@dataclass(frozen=True)
class Marked:
    """A row with its name on the page, unique in the section, its colour, its shape, and the dashes of its lines."""

    row: Row
    name: str
    colour: str
    shape: str
    dash: tuple[int, ...]


def marked_rows(section: Section) -> list[Marked]:
    """Every row of the section, in its order."""
    found: list[Marked] = []
    taken: dict[str, int] = {}
    for row, style in zip(section.rows, styles(section), strict=True):
        taken[style.label] = taken.get(style.label, 0) + 1
        name = style.label if taken[style.label] == 1 else f"{style.label} ({taken[style.label]})"
        found.append(Marked(row, name, style.colour, SHAPES.get(style.marker, "circle"), tuple(DASHES[style.line])))
    return found


def scales(marked: list[Marked]) -> dict[str, dict]:
    """Vega-Lite's channels of rows by name (color, shape, strokeDash), without legends: the page has one for all
    charts."""

    def channel(of: Callable[[Marked], object]) -> dict:
        scale = {"domain": [one.name for one in marked], "range": [of(one) for one in marked]}
        return {"field": "row", "type": "nominal", "scale": scale, "legend": None}

    return {
        "color": channel(lambda one: one.colour),
        "shape": channel(lambda one: one.shape),
        "strokeDash": channel(lambda one: list(one.dash)),
    }
