"""Pictures as one PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from variants.atomic import write_atomic

SMALL = 64
"""Pictures of at most so many pixels a side are enlarged, each pixel a block."""
GAP = 2


def grid(pictures: Sequence[np.ndarray], columns: int | None = None) -> np.ndarray:
    """Pictures (H, W, 3) uint8 of one size in rows, from left to right, on white: (R, C, 3) uint8.

    Args:
        columns: of the grid; by default as many as rows, or one more.
    """
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    height, width = pictures[0].shape[:2]
    scale = 4 if max(height, width) <= SMALL else 1
    rows = math.ceil(len(pictures) / columns)
    tall, wide = height * scale + GAP, width * scale + GAP
    found = np.full((rows * tall + GAP, columns * wide + GAP, 3), 255, np.uint8)
    for place, picture in enumerate(pictures):
        top, left = GAP + place // columns * tall, GAP + place % columns * wide
        found[top : top + tall - GAP, left : left + wide - GAP] = picture.repeat(scale, 0).repeat(scale, 1)
    return found


def write_grid(path: Path, pictures: Sequence[np.ndarray], columns: int | None = None) -> None:
    """Write `grid` as a PNG, atomically."""
    write_png(path, grid(pictures, columns))


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write pixels (H, W, 3) uint8 as a PNG, atomically."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    write_atomic(path, file.getvalue())
