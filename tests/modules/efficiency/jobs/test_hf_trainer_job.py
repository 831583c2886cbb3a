"""The job on transformers' Trainer sees the rows that ours sees."""

import numpy as np

from modules.data.samplers import TrainBatches


def test_the_other_side_sees_the_same_rows():
    from modules.efficiency.jobs.hf_trainer_job import SameOrder

    order, ours = SameOrder(50, seed=3), TrainBatches(50, 8, seed=3)
    for epoch in range(2):
        ours.set_epoch(epoch)
        assert list(order) == np.concatenate([rows for rows, _ in ours]).tolist()
