"""What a picture of sprites shows, read by drawing: the scene whose picture comes nearest. No model is asked.

The background is the colour of the border; count, shape and place are those of the silhouette that overlaps most with
what differs from it; style and colour are those whose drawing is nearest in colour.
"""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np

from modules.embedded.sprites import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    GHOST,
    HATCHED,
    JITTERS,
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
    colours = ("ghostly",) if shape == GHOST else tuple(COLOURS)
    found: tuple[float, Scene | None] = (NEAREST, None)
    for style, colour in itertools.product((*STYLES, HATCHED), colours):
        scene = Scene(style, count, colour, shape, place, background)
        difference = pixels[inside] - _drawn(scene, jitter)[inside]
        found = min(found, (float(np.sqrt(np.mean(difference**2))), scene), key=lambda each: each[0])
    return found[1]


@lru_cache(None)
def _silhouettes() -> tuple[np.ndarray, np.ndarray, list[tuple[tuple[str, str, str], tuple[int, int]]]]:
    """(silhouettes (K, 1024) fp32, their pixels (K,), (count, shape, place) and jitter of each)."""
    places = list(itertools.product(itertools.product(COUNTS, (*SHAPES, GHOST), PLACES), JITTERS))
    masks = np.stack([silhouette(*words, jitter).reshape(-1) for words, jitter in places]).astype(np.float32)
    return masks, masks.sum(1), places


@lru_cache(4096)
def _drawn(scene: Scene, jitter: tuple[int, int]) -> np.ndarray:
    return draw(scene, jitter).astype(np.int32)
