"""A person's pictures: captions in the forms that people have, and mistakes in one line."""

import json

import numpy as np
import pytest
from PIL import Image

from modules.benchmarks.dreambooth.files import fitted, pictures_in
from tests.support.tiny_images import CAPTIONS, pictures
from variants.errors import UserError


def test_captions_of_metadata_and_of_files_beside(tmp_path):
    folder = pictures(tmp_path / "a")
    found = pictures_in(folder)
    assert [caption for caption, _ in found] == CAPTIONS and found[0][1].shape == (32, 32, 3)
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "caption": "from the table"}) + "\n")
    (folder / "0.txt").write_text("from the file")
    (folder / "1.txt").write_text(" two\nlines ")
    assert [caption for caption, _ in pictures_in(folder)][:3] == ["from the table", "two lines", ""]


def test_pictures_come_upright_in_colour_and_on_white(tmp_path):
    Image.new("LA", (4, 2), (0, 0)).save(tmp_path / "a.png")  # grey, all of it see-through
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (4, 2), "red").save(tmp_path / "b.jpg", exif=exif)
    (_, white), (_, turned) = pictures_in(tmp_path)
    assert white.shape == (2, 4, 3) and (white == 255).all() and turned.shape == (4, 2, 3)


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(UserError, match="there is no such folder"):
        pictures_in(tmp_path / "none")
    with pytest.raises(UserError, match="no pictures there"):
        pictures_in(tmp_path)
    folder = pictures(tmp_path / "a")
    for line, told in (
        ('{"file_name": "x.png", "text": "a"}', "names x.png, which is not in the folder"),
        ('{"text": "a"}', "metadata.jsonl:1: expected the keys"),
        ('{"file_name": "0.png", "text": 3}', "metadata.jsonl:1: text must be a text"),
        ("{", "metadata.jsonl:1"),
    ):
        (folder / "metadata.jsonl").write_text(line)
        with pytest.raises(UserError, match=told):
            pictures_in(folder)
    (folder / "metadata.jsonl").unlink()
    (folder / "0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="0.png cannot be read as a picture"):
        pictures_in(folder)


def test_a_picture_is_cut_to_its_middle():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    assert fitted(wide, 5).shape == (5, 5, 3) and fitted(wide, 5).mean() > 230  # of the whole it would be 85
