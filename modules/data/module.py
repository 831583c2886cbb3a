"""Batches: which rows, in which order, on which rank, and how they are padded.

Training batches are *global*: batch k of an epoch holds the same rows whatever the number of processes, which share
them out so that all have about the same work. Evaluation reads every row exactly once over all processes. Weights make
both exact where rows do not divide evenly (see `PaddedDataModule`).
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from modules.data.packing import PackedRows
from modules.data.padding import EDGES, PaddedRows
from modules.data.samplers import EvalBatches, Rows, StackedBatches, TrainBatches
from modules.data.tokens import Tokens
from variants.errors import UserError

MULTIPLE = 128
"""Under CUDA graphs, tokens of a packed batch come in multiples of this: each number of them costs a graph."""
MULTIPLE_OF_MANY = 64
"""The same for each of several seeds: their steps are long, so that filling up costs more than a graph."""


class PaddedDataModule(LightningDataModule):
    """The loaders of one run. Use with `Trainer(use_distributed_sampler=False)`: rank and world come from the trainer.

    Args:
        splits: "train" and the evaluation splits that exist, tokenised with `max_length`.
        eval_splits: names of all that may exist, in the order of `val_dataloader()`'s list.
        pad_id: the tokenizer's padding token.
        batch_size: rows of one training batch over ALL processes (before gradient accumulation).
        eval_batch_size: rows of one evaluation batch on one process.
        seed: decides the order of training rows together with the epoch. Where `seeds` is set to several, a training
            batch holds the batch of each, one behind the other.
        pad: "bucket" pads a batch to the first of `edges` that it fits in, "max" to `max_length`.
        fill: for CUDA graphs: gives every batch of one width the same shape (weight-0 copies at the end), and leaves
            training batches on the host, from where they are copied to what a graph reads.

    A training batch's loss is the sum of weights x losses: DDP's average over ranks is then the mean over the global
    batch. In evaluation weight is 1 for real rows and 0 for fillers. Subclasses may say what a batch is (`rows_type`,
    `packed_rows_type`)
    and how many losses a row has (`units`).
    """

    rows_type: type[PaddedRows] = PaddedRows
    packed_rows_type: type[PackedRows] = PackedRows

    def __init__(
        self,
        splits: dict[str, Tokens],
        eval_splits: Sequence[str],
        pad_id: int,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        seed: int = 0,
        pad: str = "bucket",
        max_length: int = 128,
        edges: Sequence[int] = EDGES,
        fill: bool = False,
    ):
        super().__init__()
        if batch_size < 1 or eval_batch_size < 1:
            raise UserError(f"batch sizes must be at least 1, not {min(batch_size, eval_batch_size)}")
        if pad not in ("bucket", "max"):
            raise UserError(f"pad must be bucket or max, not {pad!r}")
        longest = max(int(tokens.lengths.max()) for tokens in splits.values())
        if longest > max_length:
            raise UserError(f"rows of {longest} tokens do not fit max_length {max_length}: tokenise with that limit")
        self.splits, self.pad_id, self.seeds = splits, pad_id, [seed]
        self.eval_splits = tuple(name for name in eval_splits if name in splits)
        self.batch_size, self.eval_batch_size, self.fill = batch_size, eval_batch_size, fill
        self.edges = [edge for edge in sorted(edges) if edge < max_length] if pad == "bucket" else []
        self.edges.append(max_length)
        self._first_position, self._rounded = None, False

    def pack(self, first_position: int | None, rounded: bool = False) -> None:
        """Leave padding out from now on (`modules.data.packing`).

        Args:
            first_position: the number of a row's first position in the model; None: pad again.
            rounded: give batches few lengths, for CUDA graphs.
        """
        self._first_position, self._rounded = first_position, rounded

    def pad_exactly(self) -> None:
        """Pad a batch to its longest row from now on, where `pad` is "bucket"."""
        if len(self.edges) > 1:
            self.edges = list(range(1, self.edges[-1] + 1))

    def units(self, tokens: Tokens) -> np.ndarray | None:
        """Losses of each row (N,); None: one."""
        return None

    def multiple(self, tokens: Tokens, parts: int) -> int:
        """Of which each part of a packed batch has a multiple of tokens, where batches are to have few lengths."""
        return MULTIPLE if parts == 1 else MULTIPLE_OF_MANY

    @property
    def steps_per_epoch(self) -> int:
        """Training batches per epoch, on every rank."""
        return math.ceil(len(self.splits["train"]) / self.batch_size)

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of the training rows, without padding."""
        return int(self.splits["train"].lengths.sum())

    def train_dataloader(self) -> DataLoader:
        """The training batches of each epoch, for this rank; the order is that of (seed, epoch)."""
        tokens = self.splits["train"]
        place = (*self._place(), self.fill, self.units(tokens), tokens.lengths)
        orders = [TrainBatches(len(tokens), self.batch_size, seed, *place) for seed in self.seeds]
        return self._loader(tokens, orders[0] if len(orders) == 1 else StackedBatches(orders), len(orders))

    def val_dataloader(self) -> list[DataLoader]:
        """One loader per dev split that exists; `dataloader_idx` indexes `eval_splits`."""
        return [self._eval_loader(name) for name in self.eval_splits]

    def test_dataloader(self) -> DataLoader:
        """The rows of the split "test"."""
        return self._eval_loader("test")

    def _eval_loader(self, split: str) -> DataLoader:
        tokens = self.splits[split]
        return self._loader(tokens, EvalBatches(tokens.lengths, self.eval_batch_size, *self._place(), self.fill))

    def transfer_batch_to_device(self, batch, device: torch.device, dataloader_idx: int):
        """As Lightning's, but under `fill` a training batch stays on the host."""
        if self.fill and self.trainer.training:
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _rows(self, tokens: Tokens, parts: int) -> Dataset:
        if self._first_position is None:
            return self.rows_type(tokens, self.pad_id, self.edges, self.fill)
        multiple = self.multiple(tokens, parts) if self._rounded else 1
        return self.packed_rows_type(tokens, self.pad_id, self._first_position, parts, multiple)

    def _loader(self, tokens: Tokens, sampler: Sampler[Rows], parts: int = 1) -> DataLoader:
        return self._batches(self._rows(tokens, parts), sampler)

    def _batches(self, rows: Dataset, sampler: Sampler) -> DataLoader:
        return DataLoader(
            rows,
            sampler=sampler,
            batch_size=None,  # the sampler makes the batches
            collate_fn=_as_is,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # the loader draws a seed at each start: not from the run's generator
        )


def _as_is(batch):
    return batch
