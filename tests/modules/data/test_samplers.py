"""Which rows: every row counts exactly once on any world size, in an order that follows seed and epoch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.data.samplers import EvalBatches, TrainBatches
from tests.support.tokens import order

sizes = {
    "rows": st.integers(1, 70),
    "batch_size": st.integers(1, 20),
    "world": st.integers(1, 5),
    "fill": st.booleans(),
}


@settings(deadline=None, max_examples=60)
@given(**sizes, epoch=st.integers(0, 3))
def test_global_batches_do_not_depend_on_the_world(rows, batch_size, world, fill, epoch):
    def batches(rank: int, size: int):
        sampler = TrainBatches(rows, batch_size, 7, rank, size, fill)
        sampler.set_epoch(epoch)
        result = list(sampler)
        assert len(result) == len(sampler)
        return result

    alone = batches(0, 1)
    ranks = [batches(rank, world) for rank in range(world)]
    assert {len(result) for result in ranks} == {len(alone)}
    losses = np.random.default_rng(0).random(rows)
    for k, (single, weights) in enumerate(alone):
        parts = [result[k] for result in ranks]
        real = np.concatenate([part[part_weights > 0] for part, part_weights in parts])
        assert sorted(real) == sorted(single[weights > 0])
        assert all(len(part) >= 1 for part, _ in parts)
        if fill:
            assert {len(part) for part, _ in parts} == {-(-batch_size // world)}
        # DDP averages gradients over ranks: the average of the weighted sums is the mean of the global batch.
        averaged = np.mean([(losses[part] * part_weights).sum() for part, part_weights in parts])
        assert averaged == pytest.approx(losses[single[weights > 0]].mean(), rel=1e-6)
    assert sorted(np.concatenate([single[weights > 0] for single, weights in alone])) == list(range(rows))


def test_ranks_have_about_the_same_work():
    """Tokens of a batch, and its longest row: with lengths like MRPC's, and in order of rank without them."""
    lengths = np.random.default_rng(0).integers(10, 100, 640)
    for world in (2, 4, 8):
        ranks = [list(TrainBatches(640, 8 * world, 0, rank, world, lengths=lengths)) for rank in range(world)]
        for parts in zip(*ranks, strict=True):
            tokens = [lengths[rows].sum() for rows, _ in parts]
            assert max(tokens) <= 1.05 * np.mean(tokens)
            longest = np.sort(lengths[np.concatenate([rows for rows, _ in parts])])[-world]
            assert all(lengths[rows].max() >= longest for rows, _ in parts)


@settings(deadline=None, max_examples=60)
@given(**sizes)
def test_evaluation_reads_every_row_once(rows, batch_size, world, fill):
    lengths = np.random.default_rng(rows).integers(1, 50, rows)
    ranks = [list(EvalBatches(lengths, batch_size, rank, world, fill)) for rank in range(world)]
    assert {len(batches) for batches in ranks} == {len(EvalBatches(lengths, batch_size, 0, world))}
    assert len(ranks[0]) >= 1
    everything = [batch for batches in ranks for batch in batches]
    assert all(1 <= len(part) <= batch_size for part, _ in everything)
    assert sorted(np.concatenate([part[weights > 0] for part, weights in everything])) == list(range(rows))
    assert {weight for _, weights in everything for weight in weights} <= {0.0, 1.0}
    longest = [max(lengths[batch[k][0]].max() for batch in ranks) for k in range(len(ranks[0]))]
    assert longest == sorted(longest, reverse=True)


def test_order_follows_seed_and_epoch():
    first, again, other = TrainBatches(50, 8, 0), TrainBatches(50, 8, 0), TrainBatches(50, 8, 1)
    assert order(first) == order(again) != order(other)
    second = []
    for sampler in (first, again):
        sampler.set_epoch(1)
        second.append(order(sampler))
    assert second[0] == second[1] != order(TrainBatches(50, 8, 0))
    # The stream itself is part of a result: it may not change with a version of a library.
    assert order(TrainBatches(10, 4, 0)) == [3, 7, 6, 4, 1, 0, 2, 8, 5, 9]


def test_order_is_drawn_at_the_first_batch():
    sampler, want = TrainBatches(50, 8, 0), TrainBatches(50, 8, 0)
    want.set_epoch(3)
    iterator = iter(sampler)
    sampler.set_epoch(3)  # Lightning sets the epoch after it has asked for the iterator
    assert np.concatenate([part for part, _ in iterator]).tolist() == order(want)
