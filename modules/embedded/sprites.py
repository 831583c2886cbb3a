"""Sprites: small pictures of known content, for adapting image models. A scene has a style, a number of objects of one
shape and colour, a place and a background; `draw` makes its picture, `prompt` its words, `modules.embedded.seen` reads
both back.

What pretraining shows is `scenes()`; `HATCHED` is a style and `MUSHROOM` a character that it never shows. The same
pictures on every machine: they are drawn by integer and single comparisons, without a random generator.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

SIZE = 32
"""Pixels of a side."""
STYLES = ("flat", "outlined", "shaded")
HATCHED = "hatched"
"""The style that pretraining never shows."""
COUNTS = ("one", "two", "three")
COLOURS = {
    "red": (215, 45, 45), "green": (50, 170, 70), "blue": (50, 90, 225), "yellow": (240, 205, 40),
    "purple": (160, 60, 195),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "cross")
MUSHROOM = "mushroom"
"""The character that pretraining never shows: half a circle on an arm of a cross; its colour is its own."""
FOLLOWED = ("style", "count", "colour", "shape")
"""What of a scene has to be right for a prompt to count as followed."""
PLACES = ("top", "middle", "bottom")
BACKGROUNDS = {"black": (15, 15, 20), "grey": (110, 110, 110), "beige": (225, 210, 175)}
JITTERS = tuple(itertools.product((-1, 0, 1), repeat=2))
"""By how many pixels (down, right) a scene may be moved."""

_SIDES, _GAP, _MARGIN = {1: 16, 2: 13, 3: 9}, 1, 2
_LIGHT, _TURQUOISE = (250, 250, 250), (120, 230, 220)


@dataclass(frozen=True)
class Scene:
    """What a picture shows, each in the words of this module; a mushroom's ``colour`` is "turquoise"."""

    style: str
    count: str
    colour: str
    shape: str
    place: str
    background: str

    def prompt(self, style: str | None = None, subject: str | None = None) -> str:
        """Such as ``flat, two red circles at the top on black``.

        Args:
            style: said in place of the style's name.
            subject: said in place of colour and shape.
        """
        said = subject or f"{self.colour} {plural(self.shape) if self.count != 'one' else self.shape}"
        return f"{style or self.style}, {self.count} {said} at the {self.place} on {self.background}"


def plural(shape: str) -> str:
    """The word for several of a shape."""
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def scenes(styles: tuple[str, ...] = STYLES) -> list[Scene]:
    """Every scene of some styles, in a fixed order."""
    return [Scene(*words) for words in itertools.product(styles, COUNTS, COLOURS, SHAPES, PLACES, BACKGROUNDS)]


def mushrooms(styles: tuple[str, ...] = ("flat",)) -> list[Scene]:
    """Every scene of the character in some styles, in a fixed order."""
    return [
        Scene(*words) for words in itertools.product(styles, COUNTS, ["turquoise"], [MUSHROOM], PLACES, BACKGROUNDS)
    ]


def draw(scene: Scene, jitter: tuple[int, int] = (0, 0)) -> np.ndarray:
    """The picture of a scene, (32, 32, 3) uint8.

    Args:
        jitter: by how much it is moved, one of `JITTERS`.
    """
    picture = np.empty((SIZE, SIZE, 3), np.uint8)
    picture[:] = BACKGROUNDS[scene.background]
    side = _SIDES[COUNTS.index(scene.count) + 1]
    tile, inside = _tile(scene.style, scene.colour, scene.shape, side)
    for top, left in _corners(scene.count, scene.place, jitter):
        picture[top : top + side, left : left + side][inside] = tile[inside]
    return picture


def silhouette(count: str, shape: str, place: str, jitter: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Where objects are, (32, 32) bool."""
    found = np.zeros((SIZE, SIZE), bool)
    side = _SIDES[COUNTS.index(count) + 1]
    for top, left in _corners(count, place, jitter):
        found[top : top + side, left : left + side] |= _inside(shape, side)
    return found


def _corners(count: str, place: str, jitter: tuple[int, int]) -> list[tuple[int, int]]:
    number = COUNTS.index(count) + 1
    side = _SIDES[number]
    top = {"top": _MARGIN, "middle": (SIZE - side) // 2, "bottom": SIZE - side - _MARGIN}[place] + jitter[0]
    left = (SIZE - number * side - (number - 1) * _GAP) // 2 + jitter[1]
    return [(top, left + each * (side + _GAP)) for each in range(number)]


@lru_cache(None)
def _inside(shape: str, side: int) -> np.ndarray:
    """The pixels of an object in its square, (side, side) bool."""
    y, x = (2 * np.mgrid[:side, :side] - (side - 1)) / side  # from -1 to 1, 0 in the middle
    return {
        "circle": x * x + y * y <= 1,
        "square": np.maximum(abs(x), abs(y)) <= 0.85,
        "triangle": 2 * abs(x) <= y + 1.1,
        "cross": np.minimum(abs(x), abs(y)) <= 0.3,
        MUSHROOM: np.where(y <= 0, x * x + y * y <= 1, abs(x) <= 0.3),
    }[shape]


@lru_cache(None)
def _tile(style: str, colour: str, shape: str, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(colours of an object's square (side, side, 3) uint8, its pixels)."""
    inside = _inside(shape, side)
    tile = np.empty((side, side, 3), np.uint8)
    tile[:] = _TURQUOISE if shape == MUSHROOM else COLOURS[colour]
    y, x = np.mgrid[:side, :side]
    if style == "outlined":
        padded = np.pad(inside, 1)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        tile[inside & ~inner] = _LIGHT
    elif style == "shaded":
        tile[:] = tile * (1 - 0.5 * y / (side - 1))[..., None]
    elif style == HATCHED:
        tile[(x + y) % 4 < 2] = _LIGHT
    return tile, inside
