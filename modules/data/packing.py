"""Batches without padding: rows one behind the other, for models that can take them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from modules.data.samplers import Rows
from modules.data.tokens import Tokens

LAYOUT = ("position_ids", "starts", "ends", "columns")
"""What a packed batch has for the model besides its tokens."""


class Layout(NamedTuple):
    """Where the tokens of S parts, each of R rows, are in (S, n).

    Attributes:
        filled: (S, n) whether there is a token; the rest of a part is unused.
        positions: (tokens,) place of each token in its row.
        starts: (S, R) int32, where each row of a part starts in it.
        ends: (S, R + K) int32, where each row ends, then each of K pieces of the unused rest: attention takes them for
            rows, so that it gives numbers everywhere.
        columns: (1, T) int32, the numbers below T, and no row or piece has more tokens. T is 64, 128, 256, ...: a
            GPU's attention takes tokens in blocks of that many, and each T costs a graph.
    """

    filled: np.ndarray
    positions: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    columns: np.ndarray

    @classmethod
    def of(cls, lengths: np.ndarray, multiple: int = 1) -> Layout:
        """The layout of rows of lengths (S, R); n is a multiple of ``multiple``."""
        ends = lengths.cumsum(1)
        sums = ends[:, -1:]
        n = -(-int(sums.max()) // multiple) * multiple
        width = max(64, _up_to_power(int(lengths.max())))
        rest = max(n - int(sums.min()), multiple - 1)  # the same K for most batches: each costs a graph
        pieces = _up_to_power(math.ceil(rest / width)) if rest else 0
        cuts = np.minimum(sums + width * np.arange(1, pieces + 1), n)
        positions = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths.ravel(), lengths.ravel())
        filled, every = np.arange(n) < sums, np.concatenate([ends, cuts], 1)
        columns = np.arange(width, dtype=np.int32)[None]
        return cls(filled, positions, (ends - lengths).astype(np.int32), every.astype(np.int32), columns)

    def spread(self, values: np.ndarray, fill: int) -> torch.Tensor:
        """(tokens,) -> (S, n) int64."""
        found = np.full(self.filled.shape, fill, np.int64)
        found[self.filled] = values
        return torch.from_numpy(found)


class PackedRows(Dataset):
    """Indexed by `Rows`, gives a packed batch.

    Args:
        tokens: of a split.
        pad_id: what unused places hold.
        first_position: the model's number of a row's first position.
        parts: in how many equal parts the rows of a batch are packed (seeds that are trained at once).
        multiple: of which a part's length is one: for CUDA graphs few lengths are better.
    """

    def __init__(self, tokens: Tokens, pad_id: int, first_position: int, parts: int = 1, multiple: int = 1) -> None:
        self.tokens, self.pad_id, self.first_position = tokens, pad_id, first_position
        self.parts, self.multiple = parts, multiple

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, batch: Rows) -> dict[str, torch.Tensor]:
        """-> input_ids, position_ids[, token_type_ids] (S, n) int64; starts (S, R), ends (S, R + K),
        columns (1, T) int32; labels (S * R,); weight (S * R,) float32. See `Layout`."""
        rows, weights = batch
        tokens = self.tokens
        starts = tokens.offsets[rows]
        lengths = tokens.offsets[rows + 1] - starts
        layout = Layout.of(lengths.reshape(self.parts, -1), self.multiple)
        source = np.repeat(starts, lengths) + layout.positions
        result = {
            "input_ids": layout.spread(tokens.ids[source], self.pad_id),
            "position_ids": layout.spread(layout.positions + self.first_position, self.first_position),
            "starts": torch.from_numpy(layout.starts),
            "ends": torch.from_numpy(layout.ends),
            "columns": torch.from_numpy(layout.columns),
        }
        if tokens.types is not None:
            result["token_type_ids"] = layout.spread(tokens.types[source], 0)
        result["labels"] = torch.from_numpy(tokens.labels[rows])
        result["weight"] = torch.from_numpy(weights)
        return result


def _up_to_power(number: int) -> int:
    """The next power of two."""
    return 1 << max(number - 1, 0).bit_length()
