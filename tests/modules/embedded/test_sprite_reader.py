"""The reader of sprites says what was drawn, also through noise, and nothing of pictures of nothing."""

import numpy as np
import pytest

from modules.embedded.sprite_reader import read
from modules.embedded.sprites import HATCHED, JITTERS, STYLES, Scene, draw, ghosts, scenes

EVERY = [*scenes((*STYLES, HATCHED)), *ghosts()]


@pytest.mark.parametrize("noise", [0, 18])
def test_it_reads_what_was_drawn(noise):
    random = np.random.default_rng(noise)
    for number, scene in enumerate(EVERY[::23]):
        picture = draw(scene, JITTERS[number % 9]) + random.normal(0, noise, (32, 32, 3))
        assert read(picture.clip(0, 255).astype(np.uint8)) == scene


def test_it_reads_nothing_where_there_is_nothing():
    random = np.random.default_rng(0)
    assert read(random.integers(0, 256, (32, 32, 3), np.uint8)) is None
    assert read(np.full((32, 32, 3), 15, np.uint8)) is None  # an empty background
    assert read(np.full((32, 32, 3), (0, 255, 0), np.uint8)) is None  # one that there is not
    half = draw(Scene("flat", "one", "red", "circle", "middle", "black"))
    half[:, 16:] = half[0, 0]
    assert read(half) != Scene("flat", "one", "red", "circle", "middle", "black")
