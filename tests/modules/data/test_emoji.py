"""Emoji from a sheet and its index."""

import json

import numpy as np
import pytest
from PIL import Image

from modules.data.emoji import read_emoji
from variants.errors import UserError


@pytest.fixture
def folder(tmp_path):
    entries = [
        {"name": "sun", "words": "SUN", "category": "Nature", "x": 0, "y": 1, "twemoji": True, "noto": True},
        {"name": "one_hand", "words": "X", "category": "Y", "x": 1, "y": 0, "twemoji": True, "noto": False},
    ]
    (tmp_path / "index.json").write_text(json.dumps(entries))
    sheet = np.zeros((68, 68, 4), np.uint8)
    sheet[35:67, 1:33] = (10, 20, 30, 255)
    sheet[35, 1] = 0  # see-through: white
    Image.fromarray(sheet).save(tmp_path / "noto_32.png")
    return tmp_path


def test_a_cell_without_its_border(folder):
    (sun,) = read_emoji(folder, "noto")  # the other has no picture in both hands
    assert (sun.name, sun.words) == ("sun", "sun nature")
    assert sun.picture.shape == (32, 32, 3) and (sun.picture[0, 0] == 255).all()
    assert (sun.picture.reshape(-1, 3)[1:] == (10, 20, 30)).all()


def test_mistakes_are_one_line(folder):
    with pytest.raises(UserError, match="twemoji_32.png cannot be read"):
        read_emoji(folder, "twemoji")
    entries = json.loads((folder / "index.json").read_text())
    for change, told in (({"x": 5}, "lies outside"), ({"y": "1"}, "emoji 1"), ({"x": -1}, "lies outside")):
        (folder / "index.json").write_text(json.dumps([entries[0] | change]))
        with pytest.raises(UserError, match=told):
            read_emoji(folder, "noto")
