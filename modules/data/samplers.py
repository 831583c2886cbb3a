"""Which rows make a batch, on each rank and in each epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

Rows = tuple[np.ndarray, np.ndarray]  # row numbers (B,) and their weights (B,)


def share(rows: np.ndarray, rank: int, world: int, weight: float, size: int) -> Rows:
    """This rank's part of a global batch -> (rows, weights), filled up to `size` rows with weight-0 copies of a row."""
    mine = rows[rank::world]
    filler = max(size - len(mine), 0)
    weights = np.concatenate([np.full(len(mine), weight, np.float32), np.zeros(filler, np.float32)])
    return np.concatenate([mine, np.repeat(rows[:1], filler)]), weights


def balanced(rows: np.ndarray, lengths: np.ndarray, world: int) -> np.ndarray:
    """The rows of a global batch in an order in which `share` gives each rank about as many tokens, and a longest row
    of about the same length: a step takes as long as on the rank with the most work.

    Longest first, dealt forth and back: of two ranks rank 0 has the 1st, 4th, 5th, 8th, ... row.
    """
    order = rows[np.argsort(-lengths[rows], kind="stable")]
    whole = len(order) // (2 * world) * 2 * world
    order[:whole].reshape(-1, 2, world)[:, 1] = order[:whole].reshape(-1, 2, world)[:, 1, ::-1].copy()
    return order


class TrainBatches(Sampler[Rows]):
    """Global batches in an order drawn from (seed, epoch), cut for one rank.

    Lightning calls `set_epoch` before each epoch but asks for the iterator earlier: the order is drawn at the first
    `next`. A real row weighs world / (units of the global batch): the mean over ranks of the weighted sums of losses is
    then the mean over the global batch, also in the last, smaller one. `units` says how many losses each row has
    (rows,), by default one; `lengths` (rows,) their tokens, by which several ranks share a batch evenly.
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
        lengths: np.ndarray | None = None,
    ):
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.units = np.ones(rows, np.int64) if units is None else units
        self.lengths = np.ones(rows, np.int64) if lengths is None else lengths
        self.rank, self.world, self.epoch = rank, world, 0
        self.size = math.ceil(batch_size / world) if fill else 1

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of this epoch at the next `next`."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self.rows / self.batch_size)

    def __iter__(self) -> Iterator[Rows]:
        # RandomState and not default_rng: numpy guarantees its stream for ever.
        order = np.random.RandomState([self.seed % 2**32, self.epoch]).permutation(self.rows)
        for start in range(0, self.rows, self.batch_size):
            batch = order[start : start + self.batch_size]
            if self.world > 1:
                batch = balanced(batch, self.lengths, self.world)
            yield share(batch, self.rank, self.world, self.world / self.units[batch].sum(), self.size)


class StackedBatches(Sampler[Rows]):
    """The batches of several orders, one behind the other in each batch: of seeds that are trained at once."""

    def __init__(self, orders: Sequence[TrainBatches]):
        self.orders = orders

    def set_epoch(self, epoch: int) -> None:
        """As `TrainBatches.set_epoch`, for each order."""
        for order in self.orders:
            order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.orders[0])

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        for parts in zip(*self.orders, strict=True):
            yield tuple(np.concatenate(each) for each in zip(*parts, strict=True))


class NoisyBatches(TrainBatches):
    """As `TrainBatches`, with a seed for each row (B,) int64 that is its own in every epoch, whatever the rank."""

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        for rows, weights in super().__iter__():
            seeds = [((self.seed * 1_000_003 + self.epoch) * 1_000_003 + int(row)) % 2**63 for row in rows]
            yield rows, weights, np.array(seeds, np.int64)


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
