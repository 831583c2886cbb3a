"""Scores of sprites against what was drawn: a perfect painter, one that ignores what is new, one that copies."""

import numpy as np
import pytest

from modules.benchmarks.dreambooth.scores import Painted, scored
from modules.benchmarks.dreambooth.sources import EmbeddedSource, split_of
from modules.benchmarks.dreambooth.tasks import CHARACTER, STYLE
from modules.embedded.sprites import Scene, draw
from tests.support.tiny_images import noise_like


@pytest.fixture(scope="module", params=[STYLE, CHARACTER], ids=lambda task: task.name)
def splits(request):
    return EmbeddedSource().load(request.param)


def drawn(scenes):
    return np.stack([draw(scene) for scene in scenes])


def painted(splits, test, kept=None):
    base = drawn(splits["kept"].scenes)
    train, kept = np.stack(splits["train"].pictures), base if kept is None else kept
    return scored(Painted(test, splits["test"], train, kept, base, splits["kept"]))


def test_a_perfect_painter(splits):
    found = painted(splits, drawn(splits["test"].scenes))
    assert found["taught"] == found["followed"] == found["kept"] == 1 and found["neg_drift"] == 0
    assert found["nearest"] > 0.02  # held-out scenes are none that were trained on


def test_a_painter_that_has_learnt_nothing(splits):
    scenes = splits["test"].scenes
    if scenes[0].colour == "turquoise":
        flat = [Scene("flat", s.count, "red", "circle", s.place, s.background) for s in scenes]
    else:
        flat = [Scene("flat", s.count, s.colour, s.shape, s.place, s.background) for s in scenes]
    found = painted(splits, drawn(flat))
    assert found["taught"] == 0 and found["followed"] == 1


def test_a_painter_that_copies_and_one_that_paints_nothing(splits):
    copies = np.stack([splits["train"].pictures[0]] * len(splits["test"]))
    found = painted(splits, copies)
    assert found["nearest"] == 0 and found["taught"] == 1 and found["followed"] < 0.5
    nothing = np.stack([noise_like(each) for each in drawn(splits["kept"].scenes)])
    found = painted(splits, drawn(splits["test"].scenes), nothing)
    assert found["kept"] == 0 and found["neg_drift"] < -0.2


def test_emoji_are_nearer_to_one_hand():
    rng = np.random.default_rng(0)
    new, known = (list(rng.integers(0, 256, (4, 32, 32, 3), np.uint8)) for _ in range(2))
    asked = split_of(["a", "b", "c", "d"], new, known)
    test = np.stack([new[0], new[1], known[2], new[0]])  # the last shows what another prompt asks for
    new[3] //= 2
    new[3] += new[0] // 2
    found = scored(Painted(test, asked, np.stack(new[:1])))
    assert found == {"followed": 0.75, "nearest": found["nearest"], "nearer": 0.75}
    twice = scored(Painted(np.repeat(test, 2, 0), asked, np.stack(new[:1]), times=2))
    assert twice == found
