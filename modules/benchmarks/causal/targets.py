"""Rows of token ids of which some are targets: what a language model is to predict."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from modules.data.cache import cache_dir, cached_arrays, digest
from modules.data.module import PaddedDataModule
from modules.data.padding import PaddedRows
from modules.data.samplers import Rows
from modules.data.tokens import Tokens

MULTIPLE = 128
"""Target tokens of a filled batch come in multiples of this: few shapes, little waste."""

Row = tuple[Sequence[int], Sequence[bool]]
"""Token ids, and which of them are targets; nothing predicts the first."""


def tokens_of(key: str, rows: Callable[[], Sequence[Row]]) -> Tokens:
    """Rows as flat arrays, from the cache where it has them.

    Args:
        key: all that decides the rows.
        rows: makes them.
    """
    path = cache_dir() / "tokens" / f"{digest(key.encode())[:24]}.safetensors"
    arrays = cached_arrays(path, lambda: _flat(rows()))
    counts = np.add.reduceat(arrays["targets"].astype(np.int64), arrays["offsets"][:-1])
    return Tokens(arrays["ids"], arrays["offsets"], counts, arrays["targets"])


def _flat(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    ids = np.concatenate([np.asarray(ids, np.int32) for ids, _ in rows])
    targets = np.concatenate([np.asarray(targets, np.uint8) for _, targets in rows])
    offsets = np.cumsum([0, *(len(ids) for ids, _ in rows)]).astype(np.int64)
    targets[offsets[:-1]] = 0
    return {"ids": ids, "offsets": offsets, "targets": targets}


class TargetRows(PaddedRows):
    """Adds to a padded batch where the targets are predicted: K of them, over all rows.

    positions (K,): of the predicting token in the flattened batch (B x T); targets (K,): the ids to predict;
    weights (K,): each has its row's. With ``fill`` K is a multiple of `MULTIPLE`, the last ones of weight 0.
    """

    def __getitem__(self, batch: Rows) -> dict[str, torch.Tensor]:
        result = super().__getitem__(batch)
        del result["labels"]
        return with_targets(result, result.pop("token_type_ids") == 1, result["weight"], self.fill)


def with_targets(
    batch: dict[str, torch.Tensor], is_target: torch.Tensor, weight: torch.Tensor, fill: bool
) -> dict[str, torch.Tensor]:
    """A batch with `positions`, `targets` and `weights`.

    Args:
        is_target: (B, T) bool, or (S, n) of packed rows.
        weight: (B,) of each row, or (S, n) of each token.
        fill: bring the number of targets up to a multiple of `MULTIPLE`.
    """
    rows, columns = is_target.nonzero(as_tuple=True)
    filler = -len(rows) % MULTIPLE if fill else 0
    weights = weight[rows] if weight.ndim == 1 else weight[is_target]
    return batch | {
        "positions": F.pad(rows * is_target.shape[1] + columns - 1, (0, filler)),
        "targets": F.pad(batch["input_ids"][is_target], (0, filler)),
        "weights": F.pad(weights, (0, filler)),
    }


class CausalDataModule(PaddedDataModule):
    """Batches of `TargetRows`; a row has as many losses as targets."""

    rows_type = TargetRows

    def units(self, tokens: Tokens) -> np.ndarray:
        """Targets of each row, (N,)."""
        return tokens.labels
