"""Tokens are the tokenizer's."""

import numpy as np
import pytest

from modules.data.source import Split
from modules.data.tokens import tokenise, tokenizer_hash
from tests.support.hub_server import tiny_tokenizer
from tests.support.tokens import ROWS, TEXTS


@pytest.mark.parametrize("second_call", [False, True], ids=["made", "from the cache"])
@pytest.mark.parametrize("max_length", [12, 64])
def test_tokens_are_the_tokenizers(tokenizer, max_length, second_call):
    if second_call:
        tokenise(ROWS, tokenizer, max_length, "hash")
    result = tokenise(ROWS, tokenizer, max_length, "hash")
    for name, split in ROWS.items():
        got = result[name]
        rows = [got.ids[got.offsets[i] : got.offsets[i + 1]].tolist() for i in range(len(got))]
        assert rows == [tokenizer(*text, truncation=True, max_length=max_length)["input_ids"] for text in split.texts]
        assert got.labels.tolist() == split.labels and got.labels.dtype == np.int64
        assert got.types is None and got.lengths.max() <= max_length


def test_scores_are_float32(tokenizer):
    result = tokenise({"train": Split([("a", "b")], [2.5])}, tokenizer, 16, "hash")
    assert result["train"].labels.dtype == np.float32


def test_token_types_are_kept_where_the_tokenizer_makes_them():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[SEP]": 1, "x": 2, "y": 3}, unk_token="x"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", pair="$A [SEP] $B:1 [SEP]:1", special_tokens=[("[SEP]", 1)]
    )
    bert = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", model_input_names=["input_ids", "token_type_ids", "attention_mask"]
    )
    for _ in range(2):
        got = tokenise({"train": Split([("x y", "y"), ("x", "x")], [0, 1])}, bert, 16, "hash")["train"]
        assert got.ids.tolist() == [2, 3, 1, 3, 1, 2, 1, 2, 1]
        assert got.types.tolist() == [0, 0, 0, 1, 1, 0, 0, 1, 1]


def test_tokenizer_hash_ignores_what_a_call_leaves_behind(tokenizer):
    before = tokenizer_hash(tokenizer)
    tokenizer(["a", "b c d"], truncation=True, max_length=3, padding=True)
    assert tokenizer_hash(tokenizer) == before
    changed = tiny_tokenizer([" ".join(row) for row in TEXTS])
    assert tokenizer_hash(changed) == before
    changed.add_tokens(["brandnew"])
    assert tokenizer_hash(changed) != before
