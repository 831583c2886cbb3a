"""Runs of methods whose hooks act on gradients, moments and base weights: the same when they were interrupted."""

from __future__ import annotations

import pytest
import torch

from modules.training.lightning_module import FineTuner
from modules.training.run import run
from tests.support.runs import adapter, planned


class Stopped(RuntimeError):
    """Somebody pulled the plug."""


@pytest.mark.parametrize("variant", ["lora_ga", "relora", "galore", "lora_pro"])
def test_a_resumed_run_is_the_run(command, variant, tmp_path, monkeypatch) -> None:
    """Stopped behind its first epoch and gone on with; all of it on this machine to the last bit."""
    flags = [*command, "--r", "2", "--lr", "0.01", "--trainer.limit_train_batches", "3"]
    (config,) = planned(flags, variant)
    run(config)
    whole = adapter(config)
    (again,) = planned([*flags, "--results_dir", str(tmp_path / "again")], variant)
    ended = FineTuner.on_train_epoch_start

    def interrupted(module) -> None:
        if module.current_epoch == 1:
            raise Stopped
        ended(module)

    monkeypatch.setattr(FineTuner, "on_train_epoch_start", interrupted)
    with pytest.raises(Stopped):
        run(again)
    monkeypatch.undo()
    run(again)
    for key, tensor in adapter(again).items():
        assert torch.equal(tensor, whole[key]), key
