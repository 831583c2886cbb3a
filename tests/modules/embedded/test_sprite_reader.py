"""The reader of sprites says what was drawn, also through noise, and nothing of pictures of nothing."""

from dataclasses import replace

import numpy as np
import pytest

from modules.embedded.sprite_reader import read
from modules.embedded.sprites import HATCHED, JITTERS, STYLES, Scene, draw, mushrooms, scenes, silhouette

EVERY = [*scenes((*STYLES, HATCHED)), *mushrooms()]


@pytest.mark.parametrize("noise", [0, 18])
def test_it_reads_what_was_drawn(noise):
    random = np.random.default_rng(noise)
    for number, scene in enumerate(EVERY[::23]):
        picture = draw(scene, JITTERS[number % 9]) + random.normal(0, noise, (32, 32, 3))
        assert read(picture.clip(0, 255).astype(np.uint8)) == scene


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_hatching_may_begin_anywhere_and_has_its_direction(shift):
    y, x = np.mgrid[:32, :32]
    for scene in scenes((HATCHED,))[::11]:
        inside = silhouette(scene.count, scene.shape, scene.place)
        flat = draw(replace(scene, style="flat"))
        moved, falling = flat.copy(), flat.copy()
        moved[inside & ((x + y + shift) % 4 < 2)] = 250
        falling[inside & ((x - y + shift) % 4 < 2)] = 250
        assert read(moved) == scene
        assert (seen := read(falling)) is None or seen.style != HATCHED


def test_it_reads_nothing_where_there_is_nothing():
    random = np.random.default_rng(0)
    assert read(random.integers(0, 256, (32, 32, 3), np.uint8)) is None
    assert read(np.full((32, 32, 3), 15, np.uint8)) is None  # an empty background
    assert read(np.full((32, 32, 3), (0, 255, 0), np.uint8)) is None  # one that there is not
    half = draw(Scene("flat", "one", "red", "circle", "middle", "black"))
    half[:, 16:] = half[0, 0]
    assert read(half) != Scene("flat", "one", "red", "circle", "middle", "black")
