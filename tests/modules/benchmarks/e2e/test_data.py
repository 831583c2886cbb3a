"""E2E's rows as tokens: context, end, sentence, end; which of them are targets, and what a batch weighs."""

import numpy as np
import pytest

from modules.benchmarks.causal.targets import CausalDataModule, TargetRows
from modules.benchmarks.e2e import TASK
from modules.benchmarks.e2e.data import encode, inputs_of
from modules.benchmarks.e2e.sources import FolderSource
from modules.benchmarks.e2e.text import LINEARISATIONS, read_authors_mr
from modules.data.tokens import Tokens
from modules.pretraining.causal_lm import word_tokenizer
from tests.support.e2e_tiny import text_folder, words
from variants.errors import UserError

# ---- tokens and masks ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(words())


@pytest.fixture
def splits(tmp_path):
    return FolderSource(text_folder(tmp_path / "text")).load(TASK)


@pytest.mark.parametrize("form", LINEARISATIONS)
def test_a_row_is_context_end_sentence_end(splits, tokenizer, form):
    tokens = encode(splits, tokenizer, 96, form, f"hash-{form}")["train"]
    for row, (mr, sentence) in enumerate(splits["train"].texts):
        ids = tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]].tolist()
        context = LINEARISATIONS[form](read_authors_mr(mr))
        assert ids == tokenizer.encode(f"{context} <|endoftext|> {sentence} <|endoftext|>")
        begin = len(ids) - tokens.labels[row]
        assert ids[begin - 1] == 0 and begin == len(tokenizer.encode(context)) + 1


def test_only_the_sentence_and_its_end_are_targets():
    """Two rows by hand: contexts [5 6 0] and [7 0], sentences [8 9 0] and [4 0]."""
    ids = np.array([5, 6, 0, 8, 9, 0, 7, 0, 4, 0], np.int32)
    targets = np.array([0, 0, 0, 1, 1, 1, 0, 0, 1, 1], np.uint8)
    tokens = Tokens(ids, np.array([0, 6, 10]), np.array([3, 2]), targets)
    batch = TargetRows(tokens, 0, [8])[np.array([0, 1]), np.array([1.0, 0.5], np.float32)]
    assert batch["input_ids"].tolist() == [[5, 6, 0, 8, 9, 0, 0, 0], [7, 0, 4, 0, 0, 0, 0, 0]]
    assert batch["targets"].tolist() == [8, 9, 0, 4, 0]
    assert batch["positions"].tolist() == [2, 3, 4, 8 + 1, 8 + 2]  # the tokens that predict them
    assert batch["weights"].tolist() == [1.0, 1.0, 1.0, 0.5, 0.5] and "labels" not in batch


def test_a_batch_weighs_every_target_alike(splits, tokenizer):
    """Over two ranks the weights of a global batch are 2 / its targets each, in the last, smaller batch too."""
    tokens = encode(splits, tokenizer, 96, "authors", "hash")
    data = CausalDataModule(tokens, ("validation",), 0, batch_size=8, eval_batch_size=8, max_length=96)
    ranks = []
    for rank in (0, 1):
        data._place = lambda rank=rank: (rank, 2)
        ranks.append(list(data.train_dataloader()))
    for first, second in zip(*ranks, strict=True):
        weights = np.concatenate([first["weights"], second["weights"]])
        real_ones = weights[weights > 0]
        assert np.allclose(real_ones, 2 / len(real_ones))
    data._place = lambda: (0, 1)
    (loader,) = data.val_dataloader()
    assert sum(int(batch["weights"].sum()) for batch in loader) == int(tokens["validation"].labels.sum())


def test_a_context_that_fills_the_row_is_named(splits, tokenizer):
    with pytest.raises(UserError, match=r"of train row \d+ fills max_length 12: raise --max_length"):
        encode(splits, tokenizer, 12, "authors", "hash")


def test_inputs_are_grouped_by_meaning_representation(splits, tokenizer):
    test = inputs_of(splits["test"], tokenizer, "authors")
    assert len(test.mrs) == 4 and [len(group) for group in test.references] == [8, 8, 8, 6]
    assert [text for group in test.references for text in group] == [text for _, text in splits["test"].texts]
