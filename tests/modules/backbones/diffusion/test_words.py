"""Prompts as bags of words."""

import json

import pytest
import torch

from modules.backbones.diffusion.words import FILE, SPARE, Words
from variants.errors import UserError

WORDS = Words(["red", "circle", "cross", "two"], longest=5)


def test_words_have_numbers_and_unknown_ones_a_spare_one():
    assert len(WORDS) == 4 + 1 + SPARE
    assert WORDS.numbers("Two red circles, at the crosses!") == [4, 3, 0, 1, 2]
    assert WORDS.numbers("") == [4] and len(WORDS.numbers("red " * 9)) == 5
    spare = WORDS.numbers("sks")[1]
    assert spare == WORDS.numbers("a SKS")[1] and 5 <= spare < len(WORDS)
    assert WORDS.numbers("ohwx")[1] != spare  # the two words of the embedded tasks


def test_vectors_are_one_hot_where_there_is_a_word():
    vectors, mask = WORDS.encode(["red", "two red circles"])
    assert vectors.shape == (2, 5, 13) and mask.tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]
    assert torch.equal(vectors.sum(-1), mask.float()) and vectors[1].argmax(-1)[:4].tolist() == [4, 3, 0, 1]


def test_saved_and_read(tmp_path):
    WORDS.save(tmp_path)
    again = Words.load(tmp_path)
    assert (again.known, again.longest) == (WORDS.known, WORDS.longest)
    for content in ([], {"known": ["a"]}, {"longest": 3, "known": "abc"}, {"longest": "x", "known": []}):
        (tmp_path / FILE).write_text(json.dumps(content))
        with pytest.raises(UserError, match=FILE):
            Words.load(tmp_path)
