"""Options of lightning.Trainer: each works or is refused by one line."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from modules.runs.trainer_options import check_trainer, option_names
from variants.errors import UserError


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"devices": 0}, "devices must be a number from 1"),
        ({"devices": ""}, "devices must be a number from 1"),
        ({"max_steps": 5}, "max_steps is set by this project; use --epochs"),
        ({"limit_val_batches": 0}, "limit_val_batches must be a share above 0"),
        ({"limit_train_batches": 0.0}, "limit_train_batches must be a share above 0"),
        ({"check_val_every_n_epoch": 2}, "check_val_every_n_epoch is set by this project"),
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches must be a whole number from 1, not 0"),
        ({"devices": "two"}, "devices must be a number from 1, a list of them, or auto, not 'two'"),
        ({"overfit_batches": 1}, "overfit_batches is set by this project; use --trainer.limit_train_batches"),
        ({"accelerator": "bogus"}, "accelerator must be one of auto, gpu, cpu"),
        ({"log_every_n_steps": 0}, "log_every_n_steps must be a whole number from 1"),
        ({"strategy": "deepspeed_stage_3"}, "deepspeed_stage_3 is not supported: it would shard what trains .*fsdp2"),
        ({"strategy": "fsdp"}, "strategy fsdp is not supported: it flattens frozen weights and trained ones"),
        ({"strategy": "ddp_spawn"}, "ddp_spawn is not supported: processes that are spawned or forked do not give"),
        ({"strategy": "ddp_find_unused_parameters_true"}, "is not supported: every tensor that trains gets a gradient"),
        ({"strategy": "ddp_notebook"}, "is not supported: processes that are spawned"),
        ({"strategy": "single_device"}, "strategy single_device is not supported; leave it out"),
        ({"num_nodes": 3}, "alone would wait for the other machines for ever"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_option_that_cannot_work_is_refused(monkeypatch, options, says):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match=says):
        check_trainer(options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="accelerator gpu: there is none on this machine"):
        check_trainer({"accelerator": "gpu"})


@pytest.mark.parametrize("devices", [3, "3", [0, 2], "0,2"])
def test_gpus_that_are_not_there_are_refused(monkeypatch, devices):
    """But not of a rank that a launcher started, which may see its own GPU alone."""
    monkeypatch.setattr("modules.runs.ranks.on_cpu", lambda options: False)
    monkeypatch.setattr("modules.runs.trainer_options.on_cpu", lambda options: False)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    with pytest.raises(UserError, match="this machine has 2 of them"):
        check_trainer({"devices": devices})
    check_trainer({"devices": 2, "precision": 16})
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    check_trainer({"devices": devices})


def test_options_that_work(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "here")
    check_trainer({"devices": "0,1", "accelerator": "cpu", "num_nodes": 2, "limit_train_batches": 0.5, "precision": 16})
    check_trainer({"strategy": "fsdp2", "devices": 2, "accelerator": "cpu"})
    check_trainer({"strategy": "ddp", "devices": -1, "limit_val_batches": 3, "accelerator": "auto"})


def test_what_this_machine_lacks_counts_only_for_runs_that_are_carried_out_here(monkeypatch):
    """A cluster's login node has no GPU; what no machine could do is refused there too."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = {"accelerator": "gpu", "devices": 8, "num_nodes": 2}
    with pytest.raises(UserError, match="there is none on this machine"):
        check_trainer(options)
    check_trainer(options, here=False)
    with pytest.raises(UserError, match="deepspeed is not supported"):
        check_trainer({"strategy": "deepspeed"}, here=False)


def test_the_options_are_those_of_the_trainer():
    assert option_names() == set(inspect.signature(Trainer.__init__).parameters) - {"self"}


def test_a_plan_for_the_cpu_waits_for_neither_torch_nor_lightning():
    options = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "limit_val_batches": 3}
    code = f"import sys; from modules.runs.trainer_options import check_trainer; check_trainer({options}); "
    code += "print({'torch', 'lightning'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "set()", done.stderr
