"""What a picture of sprites shows, read by drawing: the scene whose picture comes nearest. No model is asked.

The background is the colour of the border; count, shape and place are those of the silhouette that overlaps most with
what differs from it; style and colour are those whose drawing is nearest in colour. Hatching is read by its direction:
where its lines begin is no part of the style, and painted lines are rarely those of the drawing to the pixel.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np

from modules.embedded.sprites import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    HATCHED,
    JITTERS,
    MUSHROOM,
    PLACES,
    SHAPES,
    SIZE,
    STYLES,
    Scene,
    draw,
    silhouette,
)

OVERLAP = 0.7
"""Least intersection over union with a silhouette; below it a picture shows nothing that can be named."""
FAR = 45
"""From this difference on, in the colour that differs most, a pixel is no background."""
NEAREST = 48.0
"""Largest root mean square difference of an object's pixels from the drawing that explains them."""
STRIPED = 50
"""By how much more whiteness must change across the lines of a hatching than along them: drawn, 190 or more; other
styles, 0."""


def read(picture: np.ndarray) -> Scene | None:
    """The scene of a picture (32, 32, 3) uint8; None where nothing can be named."""
    pixels = picture.astype(np.int32)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    middle = np.median(border, 0)
    background = min(BACKGROUNDS, key=lambda name: np.abs(middle - BACKGROUNDS[name]).max())
    if np.abs(middle - BACKGROUNDS[background]).max() >= FAR:
        return None
    object_there = (np.abs(pixels - middle).max(-1) >= FAR).reshape(-1)
    masks, sizes, places = _silhouettes()
    both = masks @ object_there.astype(np.float32)
    overlap = both / np.maximum(sizes + object_there.sum() - both, 1)
    best = int(overlap.argmax())
    if overlap[best] < OVERLAP:
        return None
    (count, shape, place), jitter = places[best]
    inside = masks[best].reshape(SIZE, SIZE) > 0
    colours = ("turquoise",) if shape == MUSHROOM else tuple(COLOURS)
    styles = (HATCHED,) if _striped(pixels.min(-1), inside) else STYLES
    found: tuple[float, Scene | None] = (NEAREST, None)
    for style, colour in itertools.product(styles, colours):
        scene = Scene(style, count, colour, shape, place, background)
        difference = pixels[inside] - _drawn(scene, jitter)[inside]
        if style == HATCHED:  # each pixel is of a line or between two
            kinds = np.unique(_drawn(scene, jitter)[inside], axis=0)
            difference = pixels[inside][:, None] - kinds
            difference = difference[np.arange(len(difference)), (difference**2).sum(-1).argmin(1)]
        found = min(found, (float(np.sqrt(np.mean(difference**2))), scene), key=lambda each: each[0])
    return found[1]


def _striped(whiteness: np.ndarray, inside: np.ndarray) -> bool:
    """Whether an object has lines that rise to the right, by neighbours (32, 32) that both belong to it."""
    across, along = whiteness[1:, 1:] - whiteness[:-1, :-1], whiteness[1:, :-1] - whiteness[:-1, 1:]
    both, beside = inside[1:, 1:] & inside[:-1, :-1], inside[1:, :-1] & inside[:-1, 1:]
    return bool(np.abs(across[both]).mean() - np.abs(along[beside]).mean() > STRIPED)


@lru_cache(None)
def _silhouettes() -> tuple[np.ndarray, np.ndarray, list[tuple[tuple[str, str, str], tuple[int, int]]]]:
    """(silhouettes (K, 1024) fp32, their pixels (K,), (count, shape, place) and jitter of each)."""
    places = list(itertools.product(itertools.product(COUNTS, (*SHAPES, MUSHROOM), PLACES), JITTERS))
    masks = np.stack([silhouette(*words, jitter).reshape(-1) for words, jitter in places]).astype(np.float32)
    return masks, masks.sum(1), places


@lru_cache(4096)
def _drawn(scene: Scene, jitter: tuple[int, int]) -> np.ndarray:
    return draw(scene, jitter).astype(np.int32)
