"""Rows of token ids of which some are targets: what a language model is to predict."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from modules.data.cache import cache_dir, cached_arrays, digest
from modules.data.module import PaddedDataModule
from modules.data.packing import PackedRows
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


class _WithTargets(Dataset):
    """Adds to a batch where its targets are predicted: K of them, over all rows.

    positions (K,): of the predicting token in the flattened batch; targets (K,): the ids to predict; weights (K,): each
    has its row's. K is a multiple of `multiple_of_targets`, the last ones of weight 0.
    """

    multiple_of_targets = 1

    def __getitem__(self, batch: Rows) -> dict[str, torch.Tensor]:
        result = super().__getitem__(batch)
        counts, is_target = result.pop("labels"), result.pop("token_type_ids") == 1
        positions = is_target.flatten().nonzero().squeeze(1) - 1
        filler = -len(positions) % self.multiple_of_targets
        return result | {
            "positions": F.pad(positions, (0, filler)),
            "targets": F.pad(result["input_ids"][is_target], (0, filler)),
            "weights": F.pad(result["weight"].repeat_interleave(counts), (0, filler)),
        }


class TargetRows(_WithTargets, PaddedRows):
    """Padded batches (B, T) with targets."""

    @property
    def multiple_of_targets(self) -> int:
        """`MULTIPLE` in filled batches."""
        return MULTIPLE if self.fill else 1


class PackedTargetRows(_WithTargets, PackedRows):
    """Packed batches (S, n) with targets."""

    @property
    def multiple_of_targets(self) -> int:
        """As of all tokens."""
        return self.multiple


class CausalDataModule(PaddedDataModule):
    """Batches of `TargetRows` or `PackedTargetRows`; a row has as many losses as targets."""

    rows_type = TargetRows
    packed_rows_type = PackedTargetRows

    def units(self, tokens: Tokens) -> np.ndarray:
        """Targets of each row, (N,)."""
        return tokens.labels

    def multiple(self, tokens: Tokens, parts: int) -> int:
        """Language models' rows are long: a sixteenth of a batch's tokens or less, so that there are few lengths."""
        expected = tokens.lengths.mean() * self.batch_size / self._place()[1]
        sixteenth = 1 << max(int(expected / 16), 1).bit_length() - 1
        return max(super().multiple(tokens, parts), sixteenth)
