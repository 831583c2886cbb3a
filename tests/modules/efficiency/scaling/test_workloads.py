"""Which runs a number of GPUs makes, and how long they are."""

import pytest

from modules.efficiency.scaling.workloads import counts, plan_of_steps, runs_of, steady, workload
from variants.errors import UserError


def test_numbers_of_gpus_double_up_to_all_of_them():
    assert counts(1) == [1] and counts(2) == [1, 2] and counts(6) == [1, 2, 4, 6] and counts(8) == [1, 2, 4, 8]


def test_a_round_has_weak_and_strong_scaling_once_each():
    assert list(runs_of(32, 2)) == ["1x32", "2x32", "2x16"]
    assert list(runs_of(32, 3)) == ["1x32", "2x32", "2x16", "3x32"]  # 32 rows are not dealt to three
    assert list(runs_of(32, 1)) == ["1x32"]


@pytest.mark.parametrize(("rows", "batch"), [(3668, 32), (3668, 64), (3668, 512), (40, 32), (42061, 8)])
def test_runs_take_as_many_whole_steps_whatever_their_batch(rows, batch):
    each, epochs = plan_of_steps(rows, batch, steps=50, epochs=12)
    assert each <= 50 and each * batch <= rows
    assert 600 <= each * epochs < 600 + each


def test_a_workload_that_there_is_not_is_one_line():
    """As a result file of another version may name it."""
    with pytest.raises(UserError, match="--scaling has no workload 'bert'; there are roberta-base, "):
        workload("bert")


def test_the_first_half_of_the_epochs_does_not_count():
    assert steady([900.0, 50.0, 4.0, 4.2]) == pytest.approx(4.1)
    assert steady([7.0]) == 7.0
