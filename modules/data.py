"""Batches: which rows, in which order, on which rank, and how they are padded.

Training batches are *global*: batch k of an epoch holds the same rows whatever the number of processes, each of which
takes every world-th row of it. Evaluation reads every row exactly once over all processes. Weights make both exact
where rows do not divide evenly (see `PaddedDataModule`).
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from modules.config import RunConfig
from modules.errors import UserError
from modules.packed import PackedRows, Rows
from modules.tasks import Task
from modules.tokens import Tokens

EDGES = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)

MULTIPLE = 128
"""Under CUDA graphs, tokens of a packed batch come in multiples of this: each number of them costs a graph."""
MULTIPLE_OF_MANY = 64
"""The same for each of several seeds: their steps are long, so that filling up costs more than a graph."""


def share(rows: np.ndarray, rank: int, world: int, weight: float, size: int) -> Rows:
    """This rank's part of a global batch -> (rows, weights), filled up to `size` rows with weight-0 copies of a row."""
    mine = rows[rank::world]
    filler = max(size - len(mine), 0)
    weights = np.concatenate([np.full(len(mine), weight, np.float32), np.zeros(filler, np.float32)])
    return np.concatenate([mine, np.repeat(rows[:1], filler)]), weights


class TrainBatches(Sampler[Rows]):
    """Global batches in an order drawn from (seed, epoch), cut for one rank.

    Lightning calls `set_epoch` before each epoch but asks for the iterator earlier: the order is drawn at the first
    `next`. A real row weighs world / (units of the global batch): the mean over ranks of the weighted sums of losses is
    then the mean over the global batch, also in the last, smaller one. `units` says how many losses each row has
    (rows,), by default one.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        fill: bool = False,
        units: np.ndarray | None = None,
    ):
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.units = np.ones(rows, np.int64) if units is None else units
        self.rank, self.world, self.epoch = rank, world, 0
        self.size = math.ceil(batch_size / world) if fill else 1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self.rows / self.batch_size)

    def __iter__(self) -> Iterator[Rows]:
        # RandomState and not default_rng: numpy guarantees its stream for ever.
        order = np.random.RandomState([self.seed % 2**32, self.epoch]).permutation(self.rows)
        for start in range(0, self.rows, self.batch_size):
            batch = order[start : start + self.batch_size]
            yield share(batch, self.rank, self.world, self.world / self.units[batch].sum(), self.size)


class StackedBatches(Sampler[Rows]):
    """The batches of several orders, one behind the other in each batch: of seeds that are trained at once."""

    def __init__(self, orders: Sequence[TrainBatches]):
        self.orders = orders

    def set_epoch(self, epoch: int) -> None:
        for order in self.orders:
            order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.orders[0])

    def __iter__(self) -> Iterator[Rows]:
        for parts in zip(*self.orders, strict=True):
            rows, weights = zip(*parts, strict=True)
            yield np.concatenate(rows), np.concatenate(weights)


class EvalBatches(Sampler[Rows]):
    """Every row once over all ranks, longest first: little padding, and memory peaks early.

    All ranks run the same number of batches, at least one; a rank without a row in the last one gets a filler row.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, rank: int = 0, world: int = 1, fill: bool = False):
        self.order = np.argsort(-lengths, kind="stable")
        self.batch_size, self.rank, self.world = batch_size, rank, world
        self.size = batch_size if fill else 1

    def __len__(self) -> int:
        return math.ceil(len(self.order) / (self.batch_size * self.world))

    def __iter__(self) -> Iterator[Rows]:
        step = self.batch_size * self.world
        for start in range(0, len(self.order), step):
            yield share(self.order[start : start + step], self.rank, self.world, 1.0, self.size)


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
    batch. In evaluation weight is 1 for real rows and 0 for fillers. Subclasses may say what a batch is (`rows_type`)
    and how many losses a row has (`units`).
    """

    rows_type: type[PaddedRows] = PaddedRows

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

    def pack(self, first_position: int, rounded: bool = False) -> None:
        """Leave padding out from now on (`modules.packed`).

        Args:
            first_position: the number of a row's first position in the model.
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

    @property
    def steps_per_epoch(self) -> int:
        """Training batches per epoch, on every rank."""
        return math.ceil(len(self.splits["train"]) / self.batch_size)

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of the training rows, without padding."""
        return int(self.splits["train"].lengths.sum())

    def train_dataloader(self) -> DataLoader:
        tokens = self.splits["train"]
        place = (*self._place(), self.fill, self.units(tokens))
        orders = [TrainBatches(len(tokens), self.batch_size, seed, *place) for seed in self.seeds]
        return self._loader(tokens, orders[0] if len(orders) == 1 else StackedBatches(orders), len(orders))

    def val_dataloader(self) -> list[DataLoader]:
        """One loader per dev split that exists; `dataloader_idx` indexes `eval_splits`."""
        loaders = []
        for name in self.eval_splits:
            tokens = self.splits[name]
            sampler = EvalBatches(tokens.lengths, self.eval_batch_size, *self._place(), self.fill)
            loaders.append(self._loader(tokens, sampler))
        return loaders

    def transfer_batch_to_device(self, batch, device: torch.device, dataloader_idx: int):
        if self.fill and self.trainer.training:
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _rows(self, tokens: Tokens, parts: int) -> Dataset:
        if self._first_position is None:
            return self.rows_type(tokens, self.pad_id, self.edges, self.fill)
        multiple = (MULTIPLE if parts == 1 else MULTIPLE_OF_MANY) if self._rounded else 1
        return PackedRows(tokens, self.pad_id, self._first_position, parts, multiple)

    def _loader(self, tokens: Tokens, sampler: Sampler[Rows], parts: int = 1) -> DataLoader:
        return DataLoader(
            self._rows(tokens, parts),
            sampler=sampler,
            batch_size=None,  # the sampler makes the batches
            collate_fn=_as_is,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # the loader draws a seed at each start: not from the run's generator
        )


def _as_is(batch):
    return batch


class GlueDataModule(PaddedDataModule):
    """The loaders of one task: "train" and the dev splits that exist, one loss per row."""

    def __init__(self, task: Task, splits: dict[str, Tokens], pad_id: int, **options):
        super().__init__(splits, task.eval_splits, pad_id, **options)
        self.task = task


def batch_sizes(config: RunConfig) -> dict[str, int]:
    """Rows of a training and of an evaluation batch of a run. Raises UserError where accumulation does not divide."""
    size, accumulate = config.training["batch_size"], config.trainer.get("accumulate_grad_batches", 1)
    if size % accumulate:
        raise UserError(f"--batch_size {size} cannot be split over accumulate_grad_batches={accumulate}")
    return {"batch_size": size // accumulate, "eval_batch_size": 4 * size}
