"""Sprites: the same pictures everywhere, and as different as their words."""

import hashlib

import numpy as np

from modules.embedded.sprites import HATCHED, JITTERS, STYLES, Scene, draw, mushrooms, scenes, silhouette


def test_the_pictures_are_those_that_the_model_was_pretrained_on():
    every = b"".join(draw(scene).tobytes() for scene in [*scenes((*STYLES, HATCHED)), *mushrooms()])
    assert hashlib.sha256(every).hexdigest()[:16] == "dac215548d8df7c1"


def test_different_words_are_different_pictures():
    every = [*scenes((*STYLES, HATCHED)), *mushrooms()]
    assert len({draw(scene).tobytes() for scene in every}) == len(every) == 2160 + 27


def test_a_jitter_moves_the_objects_and_nothing_else():
    scene = Scene("flat", "two", "red", "cross", "middle", "grey")
    still = draw(scene)
    for down, right in JITTERS:
        assert np.array_equal(np.roll(still, (down, right), (0, 1)), draw(scene, (down, right)))


def test_a_style_stays_inside_the_silhouette():
    for scene in scenes((*STYLES, HATCHED))[::7]:
        outside = ~silhouette(scene.count, scene.shape, scene.place)
        assert (draw(scene)[outside] == draw(scene)[0, 0]).all()


def test_prompts_say_what_is_new_by_its_own_word():
    scene = Scene("flat", "two", "red", "cross", "top", "black")
    assert scene.prompt() == "flat, two red crosses at the top on black"
    assert scene.prompt(style="sks") == "sks, two red crosses at the top on black"
    assert scene.prompt(subject="ohwx") == "flat, two ohwx at the top on black"
