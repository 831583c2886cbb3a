"""Packed rows are the padded ones, and a data module that packs gives them."""

import numpy as np
import torch

from modules.benchmarks.glue.tasks import TASKS
from modules.benchmarks.text.data import TextDataModule
from modules.data.packing import PackedRows
from modules.data.padding import PaddedRows
from tests.support.tokens import make_tokens


def test_packed_rows_are_the_padded_ones():
    """Every token, position and label of a padded batch, part by part; few lengths with a multiple."""
    tokens = make_tokens([9, 3, 16, 5, 7, 11])
    rows = (np.array([4, 0, 2, 5]), np.ones(4, np.float32))
    padded = PaddedRows(tokens, 1, [16])[rows]
    for parts, multiple, pieces in ((1, 1, 0), (2, 1, 1), (2, 100, 2)):
        found = PackedRows(tokens, 1, 2, parts, multiple)[rows]
        n = found["input_ids"].shape[1]
        assert found["input_ids"].shape == found["position_ids"].shape == (parts, n) and n % multiple == 0
        lengths = padded["attention_mask"].sum(1)
        starts, ends = found["starts"], found["ends"]
        assert starts.shape == (parts, 4 // parts) and ends.shape == (parts, 4 // parts + pieces)
        assert torch.equal((ends[:, : 4 // parts] - starts).flatten().long(), lengths)
        assert (ends[:, -1] == n).all() and (ends.diff(dim=1) <= 64).all()
        for row in range(4):
            part, place = divmod(row, 4 // parts)
            stop = int(ends[part, place])
            own = slice(stop - int(lengths[row]), stop)
            assert torch.equal(found["input_ids"][part, own], padded["input_ids"][row, : lengths[row]])
            assert torch.equal(found["position_ids"][part, own], torch.arange(2, 2 + int(lengths[row])))
        assert (found["input_ids"] != 1).sum() == lengths.sum()
        assert torch.equal(found["labels"], padded["labels"]) and torch.equal(found["weight"], padded["weight"])


def test_a_module_that_packs_gives_packed_batches():
    data = TextDataModule(
        TASKS["rte"], {"train": make_tokens(list(range(3, 43)))}, pad_id=1, batch_size=4, max_length=64
    )
    data.pack(2)
    batches = list(data.train_dataloader())
    assert sum(int((batch["input_ids"] != 1).sum()) for batch in batches) == sum(range(3, 43))
    assert all(batch["ends"].max() == batch["input_ids"].numel() for batch in batches)
    data.pack(2, rounded=True)
    assert all(batch["input_ids"].shape[1] % 128 == 0 for batch in data.train_dataloader())
    data.seeds = [0, 1]
    assert all(batch["input_ids"].shape[1] % 64 == 0 for batch in data.train_dataloader())
    assert all(batch["input_ids"].shape[0] == 2 for batch in data.train_dataloader())
