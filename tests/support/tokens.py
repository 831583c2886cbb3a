"""Tokens whose values say which row they are from."""

import numpy as np

from modules.data.tokens import Tokens


def make_tokens(lengths: list[int], types: bool = False) -> Tokens:
    """Row i consists of `lengths[i]` tokens of value 10 + i, and has label i."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.repeat(np.arange(len(lengths)) + 10, lengths).astype(np.int32)
    return Tokens(ids, offsets, np.arange(len(lengths)), (ids % 2).astype(np.uint8) if types else None)
