"""Padded rows hold the tokens."""

import numpy as np
import pytest
import torch

from modules.benchmarks.glue.tasks import TASKS
from modules.benchmarks.text.data import TextDataModule
from modules.data.padding import PaddedRows
from tests.support.tokens import make_tokens


@pytest.mark.parametrize("types", [False, True])
def test_padded_rows_hold_the_tokens(types):
    lengths = [3, 16, 1, 17, 40]
    tokens = make_tokens(lengths, types)
    rows = PaddedRows(tokens, pad_id=1, edges=(16, 24, 64))
    for chosen, width in [([0], 16), ([0, 1, 2], 16), ([2, 3], 24), ([4, 0, 3], 64)]:
        batch = rows[np.array(chosen), np.ones(len(chosen), np.float32)]
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (len(chosen), width)
        assert batch["input_ids"].dtype == batch["attention_mask"].dtype == torch.int64
        assert batch["labels"].tolist() == chosen and batch["weight"].dtype == torch.float32
        for i, row in enumerate(chosen):
            n = lengths[row]
            assert batch["input_ids"][i].tolist() == [10 + row] * n + [1] * (width - n)
            assert batch["attention_mask"][i].tolist() == [1] * n + [0] * (width - n)
            if types:
                assert batch["token_type_ids"][i].tolist() == [row % 2] * n + [0] * (width - n)
        assert ("token_type_ids" in batch) == types


def test_exact_padding_is_to_the_longest_row():
    def widths(data: TextDataModule) -> set[tuple[int, int]]:
        batches = list(data.train_dataloader())
        return {(batch["input_ids"].shape[1], int(batch["attention_mask"].sum(1).max())) for batch in batches}

    options = {"pad_id": 1, "batch_size": 4, "max_length": 48}
    data = TextDataModule(TASKS["rte"], {"train": make_tokens(list(range(3, 43)))}, **options)
    assert {width for width, _ in widths(data)} <= {16, 24, 32, 48}
    data.pad_exactly()
    assert all(width == longest for width, longest in widths(data))
    fixed = TextDataModule(TASKS["rte"], {"train": make_tokens([3, 5, 9])}, pad="max", **options)
    fixed.pad_exactly()
    assert {width for width, _ in widths(fixed)} == {48}
