"""How many ranks a run has, and who starts them."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch

from modules.runs import ranks
from variants.errors import UserError


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No launcher's variables."""
    for name in (*ranks.LAUNCHERS, ranks.BY_WORKER, "TORCHELASTIC_RUN_ID", "LOCAL_RANK", "RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("devices", "on_cpu", "on_three_gpus"),
    [(1, 1, 1), (2, 2, 2), ("2", 2, 2), (-1, 1, 3), ("-1", 1, 3), ("auto", 1, 3), ("0,1", 2, 2), ([0, 2], 2, 2),
     ([1], 1, 1), ("1,", 1, 1), ("x", 1, 1)],
)  # fmt: skip
def test_ranks_of_this_machine(monkeypatch, devices, on_cpu, on_three_gpus):
    """As Lightning reads the option; it refuses itself what it cannot read."""
    assert ranks.local_ranks({"devices": devices, "accelerator": "cpu"}) == on_cpu
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 3)
    assert ranks.local_ranks({"devices": devices}) == on_three_gpus


def test_one_device_is_what_needs_no_word():
    assert all(map(ranks.on_one_device, [{}, {"devices": 1}, {"devices": "1"}, {"accelerator": "cpu", "devices": -1}]))
    assert not any(map(ranks.on_one_device, [{"devices": 2}, {"num_nodes": 2}, {"strategy": "ddp"}]))


@pytest.mark.parametrize(
    ("variables", "launched"),
    [
        ({}, False),
        ({"TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": "0"}, True),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}, True),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, False),  # srun of one task
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7"}, False),  # a script of sbatch
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"LOCAL_RANK": "1", ranks.BY_WORKER: "2"}, False),
    ],
)
def test_who_starts_ranks(monkeypatch, variables, launched):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ranks.launched() is launched


def test_the_longest_wait_is_the_persons(monkeypatch):
    assert ranks.longest_wait() == timedelta(minutes=30)
    monkeypatch.setenv(ranks.WAIT, "90")
    assert ranks.longest_wait() == timedelta(seconds=90)
    for text in ("soon", "0", "-3", "inf", "nan", "²"):
        monkeypatch.setenv(ranks.WAIT, text)
        with pytest.raises(UserError, match=f"RANKS_WAIT must be a number of seconds above 0, not '{text}'"):
            ranks.longest_wait()
