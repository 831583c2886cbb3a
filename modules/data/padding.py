"""Rows of different lengths as one padded batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from modules.data.samplers import Rows
from modules.data.tokens import Tokens

EDGES = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
"""Widths of padded batches; of those below the longest that rows may have."""


def tokens_of(batch: dict[str, torch.Tensor]) -> torch.Tensor | None:
    """Where a batch's tokens are, (B, T): its attention mask, with none in rows that only fill it up; None where it has
    no mask."""
    mask = batch.get("attention_mask")
    return mask if mask is None or "weight" not in batch else mask * (batch["weight"] != 0)[:, None]


class PaddedRows(Dataset):
    """Indexed by `Rows`, gives a padded batch: a gather from flat arrays, fast enough for the training process."""

    def __init__(self, tokens: Tokens, pad_id: int, edges: Sequence[int], fill: bool = False):
        self.tokens, self.pad_id, self.edges, self.fill = tokens, pad_id, np.asarray(edges), fill

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, batch: Rows) -> dict[str, torch.Tensor]:
        """-> input_ids, attention_mask[, token_type_ids] (B, T) int64; labels (B,); weight (B,) float32.

        T is the first edge that the longest row fits in.
        """
        rows, weights = batch
        tokens = self.tokens
        starts = tokens.offsets[rows]
        lengths = tokens.offsets[rows + 1] - starts
        width = self.edges[np.searchsorted(self.edges, lengths.max())]
        position = np.arange(width)
        mask = position < lengths[:, None]
        source = (starts[:, None] + position)[mask]

        def padded(flat: np.ndarray, fill: int) -> torch.Tensor:
            values = np.full(mask.shape, fill, dtype=np.int64)
            values[mask] = flat[source]
            return torch.from_numpy(values)

        result = {
            "input_ids": padded(tokens.ids, self.pad_id),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        }
        if tokens.types is not None:
            result["token_type_ids"] = padded(tokens.types, 0)
        result["labels"] = torch.from_numpy(tokens.labels[rows])
        result["weight"] = torch.from_numpy(weights)
        return result
