"""The moving average of what a run trains is what is scored and saved; steps and a broken run go on beside it."""

from __future__ import annotations

import pytest
import torch

from modules.benchmarks.dreambooth import DREAMBOOTH
from modules.runs.results import ResultStore
from modules.training.averaging import MovingAverage
from modules.training.callbacks import EpochSeeds
from modules.training.run import run as train
from tests.support.runs import adapter, planned
from tests.support.tiny_images import pictures, tiny_dit
from variants.errors import UserError


@pytest.fixture
def flags(tmp_path):
    return [
        "--data", str(pictures(tmp_path / "mine")), "--model", str(tiny_dit(tmp_path / "dit")), "--logger", "none",
        "--epochs", "3", "--repeats", "1", "--paint_steps", "1", "--shown", "0", "--lr", "1e-2", "--batch_size", "2",
        "--score_epoch", "none", "--target", "attn",
    ]  # fmt: skip


def carried_out(flags, folder, variant="lora"):
    (run,) = planned([*flags, "--results_dir", str(folder)], variant=variant, benchmark=DREAMBOOTH)
    train(run, live=False)
    return run


def test_the_average_is_saved_and_scored(tmp_path, flags, monkeypatch):
    """Against the formula, computed from the values after each step."""
    steps, own = [], MovingAverage.on_train_batch_end

    def watched(self, trainer, module, *args):
        steps.append({name: p.detach().clone() for name, p in module.adapted.trained().items()})
        own(self, trainer, module, *args)

    monkeypatch.setattr(MovingAverage, "on_train_batch_end", watched)
    run = carried_out([*flags, "--ema", "0.6"], tmp_path / "averaged")
    assert len(steps) == 9
    expected = dict(steps[0])  # the first decay is 0
    for number, values in enumerate(steps[1:], 1):
        decay = min(0.6, (1 + number) / (10 + number))
        expected = {name: decay * mean + (1 - decay) * values[name] for name, mean in expected.items()}
    saved = adapter(run, "last")
    assert saved.keys() == expected.keys()
    assert all(torch.allclose(saved[name], expected[name], atol=1e-7) for name in saved)
    plain = carried_out(flags, tmp_path / "plain")
    weights, losses = adapter(plain, "last"), [ResultStore(each.results_dir).read(each.id) for each in (run, plain)]
    assert plain.id != run.id and all(torch.equal(weights[name], steps[-1][name]) for name in weights)
    averaged, own = ([epoch["neg_heldout_loss"] for epoch in each.epochs] for each in losses)
    assert averaged[-1] != own[-1]
    assert [epoch["train_loss"] for epoch in losses[0].epochs] == [epoch["train_loss"] for epoch in losses[1].epochs]


def test_a_broken_run_goes_on_with_both(tmp_path, flags, monkeypatch):
    flags, own = [*flags, "--ema", "0.6"], EpochSeeds.on_train_epoch_start
    whole = carried_out(flags, tmp_path / "whole")

    def stop(self, trainer, module):
        if trainer.current_epoch == 2:
            raise RuntimeError("stopped")
        own(self, trainer, module)

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="stopped"):
        patched.setattr(EpochSeeds, "on_train_epoch_start", stop)
        carried_out(flags, tmp_path / "broken")
    broken = carried_out(flags, tmp_path / "broken")
    first, second = adapter(whole, "last"), adapter(broken, "last")
    assert all(torch.equal(first[name], second[name]) for name in first)
    results = [ResultStore(each.results_dir).read(each.id).epochs for each in (whole, broken)]
    assert results[0] == results[1]


def test_methods_that_change_their_values_between_steps_are_refused(tmp_path, flags):
    with pytest.raises(UserError, match="--ema: adalora changes what it trains between steps"):
        carried_out([*flags, "--ema", "0.9"], tmp_path / "results", variant="adalora")
