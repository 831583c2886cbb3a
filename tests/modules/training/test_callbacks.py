"""The history of a run: its best epoch, and a loss that is no number any more; the moving average of what it trains."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import pytest
import torch

from modules.benchmarks.dreambooth import DREAMBOOTH
from modules.benchmarks.glue import GLUE
from modules.reports.show import show_table
from modules.runs.results import ResultStore, RunResult
from modules.training import callbacks
from modules.training.callbacks import EpochSeeds, MovingAverage
from modules.training.history import History
from modules.training.lightning_module import FineTuner
from modules.training.loggers.keys import epoch_row
from modules.training.run import run as train
from tests.support.results import run as result_of
from tests.support.runs import adapter, planned
from tests.support.tiny_images import pictures, tiny_dit
from variants.errors import UserError


@contextlib.contextmanager
def diverging(monkeypatch) -> Iterator[pytest.MonkeyPatch]:
    """A run whose training loss is no number from its first epoch on."""
    own = FineTuner.epoch_figures
    with monkeypatch.context() as patched:
        patched.setattr(FineTuner, "epoch_figures", lambda self: own(self) | {"train_loss": math.nan})
        yield patched


def test_a_run_whose_loss_is_no_number_is_marked_wherever_its_score_would_stand(command, monkeypatch, capsys):
    """Fault B5: 46.1 is what answering with one class gives; in the progress, the file, the table and its mean."""
    runs = planned([*command, "--seeds", "0,1"])
    with diverging(monkeypatch):
        results = [train(runs[0], live=False)]
    results.append(train(runs[1], live=False))
    assert [result.diverged for result in results] == [True, False]
    assert ResultStore(runs[0].results_dir).read(runs[0].id).diverged
    printed = capsys.readouterr().out
    assert "rte lora seed 0: epoch 1/2, diverged" in printed and "rte lora seed 1: epoch 2/2, accuracy" in printed
    show_table(runs[0].results_dir, GLUE)
    table = capsys.readouterr().out
    assert "diverged 1/2" in table


@pytest.mark.parametrize("which", ["best", "last"])
def test_older_files_tell_by_their_losses(which):
    """They hold null where a loss was no number, whatever their `cost` says."""
    result = RunResult.from_json(result_of(score=0.461, last=0.461, **{f"{which}__train_loss": None}).to_json())
    assert result.diverged and not RunResult.from_json(result_of().to_json()).diverged


def test_the_best_epoch_is_one_with_numbers(tmp_path):
    """Neither a metric that is no number, which nothing beats, nor the score of a model that says nothing."""
    history = History("pearson", tmp_path, {})
    figures = {"train_loss": 1.0, "loss": 1.0}
    history.take({"epoch": 1, **figures, "pearson": math.nan})
    assert history.best["epoch"] == 1 and not history.diverged
    history.take({"epoch": 2, **figures, "pearson": 0.5})
    history.take({"epoch": 3, **figures, "loss": math.inf, "pearson": 0.9})
    assert history.best["epoch"] == 2 and history.diverged
    last, best = (epoch_row(each, "pearson", history.best, {}) for each in (history.last, history.best))
    assert last["diverged"] == 1 and "dev/score" not in last
    assert best["dev/score"] == best["best/score"] == 0.5 and "diverged" not in best
    cut = epoch_row(history.best, "pearson", history.best, {}, truncated=True)
    assert cut["dev/pearson"] == 0.5 and not [key for key in cut if key.endswith("/score")]


def test_replicas_are_compared_before_an_adapter_is_saved(command, monkeypatch):
    def drifted(tensors):
        assert any(name.endswith("lora_A") for name in tensors)
        raise UserError("a tensor is another on rank 1")

    monkeypatch.setattr(callbacks, "check_replicas", drifted)
    (config,) = planned(command)
    with pytest.raises(UserError, match="another on rank 1"):
        train(config)
    assert not (config.folder / "best").exists()


def test_processes_that_are_at_different_runs_do_not_train(command, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.strategies.SingleDeviceStrategy.broadcast", lambda *_: "another")
    (config,) = planned(command)
    with pytest.raises(UserError, match=f"is to train run {config.id} and rank 0 run another"):
        train(config)


def test_a_diverged_run_that_was_killed_does_not_train_on(command, monkeypatch):
    """It had stopped for good; what was left to do was its record."""
    (run,) = planned(command, "head")
    with diverging(monkeypatch) as patched:
        patched.setattr("modules.training.run.make_result", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(run)
    monkeypatch.setattr(EpochSeeds, "on_train_epoch_start", lambda *_: pytest.fail("it trains on"))
    assert train(run).diverged


# ---- the moving average -------------------------------------------------------------------------------------------


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
