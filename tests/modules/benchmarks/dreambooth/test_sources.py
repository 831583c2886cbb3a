"""Splits of the sources: the generated sprites, emoji, a person's own pictures."""

import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from modules.benchmarks.dreambooth.sources import EmbeddedSource, EmojiSource, OwnSource
from modules.benchmarks.dreambooth.tasks import CHARACTER, CHARACTER_TOKEN, EMOJI, EMOJI_CHARACTER, STYLE, TOKEN
from modules.embedded.sprites import HATCHED, MUSHROOM
from tests.support.tiny_images import CAPTIONS, pictures
from variants.errors import UserError


@pytest.mark.parametrize("task, sizes", [(STYLE, (24, 24, 48)), (CHARACTER, (24, 8, 24))], ids=["style", "character"])
def test_no_scene_is_in_two_splits_and_no_prompt_says_the_new_word_where_it_must_not(task, sizes):
    splits = EmbeddedSource().load(task)
    assert tuple(len(splits[name]) for name in ("train", "validation", "test")) == sizes
    taught = [scene for name in ("train", "validation", "test") for scene in splits[name].scenes]
    assert len(set(taught)) == len(taught) == sum(sizes)
    new = (lambda scene: scene.style == HATCHED) if task is STYLE else (lambda scene: scene.shape == MUSHROOM)
    assert all(map(new, taught)) and not any(map(new, splits["kept"].scenes + splits["class"].scenes))
    token = TOKEN if task is STYLE else CHARACTER_TOKEN
    assert all(token in prompt for prompt in splits["test"].prompts)
    assert not any(token in prompt for prompt in splits["kept"].prompts + splits["class"].prompts)
    assert not set(splits["kept"].prompts) & set(splits["class"].prompts)
    assert EmbeddedSource().hash(task) == EmbeddedSource().hash(task)


def test_emoji_of_the_same_name_in_both_hands(tmp_path):
    side = 13
    entries = [
        {"name": f"n{n}", "words": f"WORD {n}", "category": "Things", "x": n % side, "y": n // side} for n in range(165)
    ]
    (tmp_path / "index.json").write_text(json.dumps(entries))
    for hand, colour in (("twemoji", 10), ("noto", 200)):
        Image.fromarray(np.full((34 * side, 34 * side, 3), colour, np.uint8)).save(tmp_path / f"{hand}_32.png")
    splits = EmojiSource(str(tmp_path)).load(EMOJI)
    assert [len(splits[name]) for name in ("train", "validation", "test", "kept")] == [32, 64, 64, 64]
    assert (splits["train"].pictures[0] == 200).all() and (splits["test"].others[0] == 10).all()
    words = [{prompt.partition(", ")[2] for prompt in splits[name].prompts} for name in ("train", "validation", "test")]
    assert len(set.union(*words)) == 160 and splits["train"].prompts[0].startswith("sks, word")
    assert splits["kept"].prompts[0].startswith("twemoji, word")
    (tmp_path / "index.json").write_text(json.dumps(entries[:50]))
    with pytest.raises(UserError, match="has 50 emoji: at least 160"):
        EmojiSource(str(tmp_path)).load(EMOJI)
    with pytest.raises(UserError, match="Style is of the embedded model"):
        EmojiSource(str(tmp_path)).load(STYLE)
    with pytest.raises(UserError, match="has 0 emoji of a woman: at least 79"):
        EmojiSource(str(tmp_path)).load(EMOJI_CHARACTER)


@pytest.mark.skipif("EMOJI_DIR" not in os.environ, reason="EMOJI_DIR names no folder of emoji")
def test_a_character_of_real_emoji():
    """The woman in all that she does, her clothes apart; what is kept is of others."""
    splits = EmojiSource(os.environ["EMOJI_DIR"]).load(EMOJI_CHARACTER)
    assert [len(splits[name]) for name in ("train", "validation", "test", "kept", "class")] == [32, 15, 32, 64, 48]
    taught = [prompt for name in ("train", "validation", "test") for prompt in splits[name].prompts]
    assert len(set(taught)) == 79 and all(re.match("ohwx, woman[ :]", prompt) for prompt in taught)
    assert not any("woman" in prompt for prompt in splits["kept"].prompts)
    assert all(prompt.startswith("twemoji, woman") for prompt in splits["class"].prompts)


def test_own_pictures(tmp_path):
    folder = pictures(tmp_path / "mine")
    given = {"data": str(folder), "class_prompt": "two circles", "prompts": "a; b ;", "split_seed": "1"}
    splits = OwnSource(given).load(EMOJI)
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 5, "validation": 1, "test": 2, "kept": 8, "class": 8,
    }  # fmt: skip
    assert splits["test"].prompts == ["a", "b"]
    assert sorted(splits["train"].prompts + splits["validation"].prompts) == sorted(CAPTIONS)
    other = OwnSource(given | {"split_seed": "2"})
    assert other.hash(EMOJI) != OwnSource(given).hash(EMOJI)
    (folder / "metadata.jsonl").unlink()
    splits = OwnSource(given | {"instance_prompt": "sks"}).load(EMOJI)
    assert set(splits["train"].prompts) == {"sks"}
    with pytest.raises(UserError, match="did you mean class_prompt"):
        OwnSource({"data": "x", "clas_prompt": "y"})
