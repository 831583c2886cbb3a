"""Tokens whose values say which row they are from."""

import numpy as np

from modules.data.samplers import TrainBatches
from modules.data.source import Split
from modules.data.tokens import Tokens


def make_tokens(lengths: list[int], types: bool = False) -> Tokens:
    """Row i consists of `lengths[i]` tokens of value 10 + i, and has label i."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.repeat(np.arange(len(lengths)) + 10, lengths).astype(np.int32)
    return Tokens(ids, offsets, np.arange(len(lengths)), (ids % 2).astype(np.uint8) if types else None)


TEXTS = [(f"row {i} " + "word " * (i % 7), f"second {i}" * (1 + i % 3)) for i in range(23)]

ROWS = {
    "train": Split(TEXTS, [i % 2 for i in range(23)]),
    "validation": Split(TEXTS[:5], [1, 0, 1, 0, 1]),
}


def order(sampler: TrainBatches) -> list[int]:
    return np.concatenate([part for part, _ in sampler]).tolist()
