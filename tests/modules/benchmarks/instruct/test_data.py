"""Examples as tokens: what is cut, and rows of which nothing is left to learn."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from modules.benchmarks.instruct.data import tokens_in
from modules.benchmarks.instruct.rows.example import Example
from modules.embedded import LLAMA
from variants.errors import UserError

SHORT, LONG = (Example((("user", "Say red"),), "red"), Example((("user", "Say " + "red" * 20),), "red"))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(LLAMA)


def test_rows_are_cut_behind_max_length_and_it_is_said(tokenizer):
    said = "<|user|>Say red<|end|><|assistant|>red<|end|>"
    tokens, note = tokens_in([SHORT, SHORT], "train", tokenizer, 64, "responses", "hash")
    assert tokenizer.decode(tokens.ids[: tokens.lengths[0]]) == said and not note
    assert tokens.labels.tolist() == [4, 4], "three letters and the token that ends the answer"
    tokens, note = tokens_in([SHORT, SHORT], "train", tokenizer, 12, "responses", "hash")
    assert tokens.lengths.tolist() == [12, 12] and tokens.labels.tolist() == [2, 2]
    assert note == "train: 2 of 2 rows fill max_length 12 or are cut"


def test_a_row_of_which_no_response_is_left_is_named(tokenizer):
    with pytest.raises(UserError, match="train row 2: its instruction fills max_length 20, .*1 rows are so"):
        tokens_in([SHORT, LONG, SHORT], "train", tokenizer, 20, "responses", "hash")
    tokens, _ = tokens_in([SHORT, LONG], "train", tokenizer, 20, "all", "hash")
    assert tokens.labels.tolist() == [14, 19], "with the loss on everything it has something to teach"
