"""Runs of methods whose hooks act on losses, gradients, moments and base weights: the same when they were interrupted,
and whoever carries the steps out."""

from __future__ import annotations

import pytest
import torch

from modules.acceleration.cuda_graphs import GraphedAdamW
from modules.training import acceleration
from modules.training.lightning_module import FineTuner
from modules.training.run import run, run_seeds
from modules.training.stacked_seeds import StackedTuner
from tests.support.outside_variants import Quiet, QuietLayer, Ramp
from tests.support.runs import adapter, planned
from variants import LoRA

OUTSIDE = "tests.support.outside_variants"
RAMP, QUIET, NORMED = (f"{OUTSIDE}:{name}" for name in ("Ramp", "Quiet", "Normed"))
LR = 0.01


@pytest.fixture
def graphed(monkeypatch):
    """Runs take the path of CUDA graphs on the CPU, without capturing any."""
    monkeypatch.setattr(acceleration, "uses_graphs", lambda config, precision: True)
    monkeypatch.setattr(GraphedAdamW, "EAGER", 10**9)


class Stopped(RuntimeError):
    """Somebody pulled the plug."""


@pytest.mark.parametrize(
    "variant", ["lora_ga", "eva", "relora", "galore", "lora_pro", "pissa", "adalora", RAMP, QUIET, NORMED]
)
def test_a_resumed_run_is_the_run(command, variant, tmp_path, monkeypatch) -> None:
    """Stopped within its second epoch and gone on with; all of it on this machine to the last bit."""
    size = ["--init_r", "3", "--target_r", "2"] if variant == "adalora" else ["--r", "2"]
    flags = [*command, *size, "--lr", str(LR), "--trainer.limit_train_batches", "3"]
    (config,) = planned(flags, variant)
    run(config)
    whole = adapter(config)
    (again,) = planned([*flags, "--results_dir", str(tmp_path / "again")], variant)
    step = FineTuner.training_step

    def interrupted(module, batch, batch_idx):
        if module.current_epoch == 1 and batch_idx == 2:
            raise Stopped
        return step(module, batch, batch_idx)

    monkeypatch.setattr(FineTuner, "training_step", interrupted)
    with pytest.raises(Stopped):
        run(again)
    monkeypatch.undo()
    run(again)
    assert adapter(again).keys() == whole.keys()
    for key, tensor in adapter(again).items():
        assert torch.equal(tensor, whole[key]), key


# ---- what a penalty knows ------------------------------------------------------------------------------------------


def weights(flags: list[str], folder, variant: str, **changes) -> dict[str, torch.Tensor]:
    """What a run has learnt."""
    (config,) = planned([*flags, "--r", "2", "--lr", str(LR), "--results_dir", str(folder)], variant, **changes)
    run(config)
    return adapter(config)


def equal(one, other, near: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        torch.testing.assert_close(tensor, other[key], rtol=near, atol=near, msg=key)


def test_a_penalty_is_told_the_step(command, tmp_path, monkeypatch, graphed) -> None:
    """Each of a step's batches the same one, the first 1 and the last the total; from one place, as graphs read it."""
    seen, places, own = [], set(), Ramp.penalty

    def spy(self, layers, step, total_steps):
        seen.append((step.item(), total_steps))
        places.add(step.data_ptr())
        return own(self, layers, step, total_steps)

    monkeypatch.setattr(Ramp, "penalty", spy)
    trainer = {"accumulate_grad_batches": 2, "limit_train_batches": 4}
    weights(command, tmp_path, RAMP, trainer=trainer)
    assert seen == [(step, 4) for step in (1, 1, 2, 2, 3, 3, 4, 4)] and len(places) == 1


def test_the_share_of_training_weighs_a_penalty(command, tmp_path, monkeypatch) -> None:
    """As a count of steps by somebody else does."""
    found, calls = weights(command, tmp_path / "told", RAMP), []

    def counting(self, layers, step, total_steps):
        calls.append(step)
        return torch.tensor(len(calls)) / 12 * sum(layer.lora_B.square().sum() for layer in layers)

    monkeypatch.setattr(Ramp, "penalty", counting)
    other = weights(command, tmp_path / "counted", RAMP)
    assert len(calls) == 12 and all(torch.equal(found[key], tensor) for key, tensor in other.items())
    monkeypatch.setattr(Ramp, "penalty", lambda *_: None)
    plain = weights(command, tmp_path / "plain", RAMP)
    assert any((found[key] - tensor).abs().max() > 1e-3 for key, tensor in plain.items())


@pytest.mark.parametrize("variant", [RAMP, QUIET])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_graphed_runs_have_the_same_penalty(command, tmp_path, monkeypatch, graphed, variant, accumulate) -> None:
    """Batches are filled up there, with rows that the mask leaves out."""
    trainer = {"accumulate_grad_batches": accumulate}
    found = weights(command, tmp_path / "graphed", variant, trainer=trainer)
    monkeypatch.undo()
    equal(found, weights(command, tmp_path / "plain", variant, trainer=trainer))


@pytest.mark.parametrize("variant", [RAMP, QUIET])
def test_stacked_seeds_have_the_same_penalty(command, tmp_path, monkeypatch, variant) -> None:
    """That of what a pass has computed too, where all rows have one width and no mask is read."""
    monkeypatch.setattr(QuietLayer, "reads_mask", False)
    flags = [*command, "--r", "2", "--lr", str(LR), "--pad", "max"]
    stacked = planned(flags, variant, seeds=[0, 1])
    run_seeds(stacked)
    for config in planned([*flags, "--results_dir", str(tmp_path / "solo")], variant, seeds=[0, 1]):
        run(config)
        equal(adapter(stacked[config.seed]), adapter(config))


def test_a_layer_that_reads_the_mask_does_not_count_padding(command, tmp_path, monkeypatch) -> None:
    """Padded to 32 tokens or to the longest row of a batch: the same."""
    told, forward = [], QuietLayer.forward

    def spy(self, x, y):
        told.append(self.attention_mask is not None and self.attention_mask.shape == x.shape[:2])
        return forward(self, x, y)

    monkeypatch.setattr(QuietLayer, "forward", spy)
    found = weights(command, tmp_path / "a", QUIET)
    assert told and all(told)
    equal(found, weights([*command, "--pad", "max"], tmp_path / "b", QUIET))
    monkeypatch.setattr(QuietLayer, "reads_mask", False)
    blind = weights([*command, "--pad", "max"], tmp_path / "c", QUIET)
    assert any((found[key] - tensor).abs().max() > 1e-4 for key, tensor in blind.items())


def test_seeds_whose_layers_read_the_mask_are_trained_one_by_one(command, monkeypatch, capsys) -> None:
    monkeypatch.setattr(StackedTuner, "training_step", None)
    flags = [*command, "--r", "2", "--trainer.limit_train_batches", "1", "--epochs", "1"]
    results = run_seeds(planned(flags, QUIET, seeds=[0, 1]))
    assert len(results) == 2 and "cannot be stacked: its layers read the mask" in capsys.readouterr().out
    assert Quiet.layer is QuietLayer


# ---- gradients that a hook replaces --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["plain", "graphed"])
def test_gradients_that_a_hook_replaces_are_the_steps(command, tmp_path, monkeypatch, request, way) -> None:
    """A new tensor, other data in the old one and none at all count as the same numbers in place do."""
    if way == "graphed":
        request.getfixturevalue("graphed")

    def in_place(self, layers, step, total_steps):
        for layer in layers:
            layer.lora_B.grad.mul_(-0.5)
            layer.lora_A.grad.mul_(0 if layer is layers[0] else 3)

    def replaced(self, layers, step, total_steps):
        for layer in layers:
            place = layer.lora_B.grad.data_ptr()
            layer.lora_B.grad = -0.5 * layer.lora_B.grad
            assert layer.lora_B.grad.data_ptr() != place
            layer.lora_A.grad.data = 3 * layer.lora_A.grad
        layers[0].lora_A.grad = None

    found = []
    for hook in (in_place, replaced):
        monkeypatch.setattr(LoRA, "before_step", hook)
        places: dict[str, set[int]] = {}
        own = FineTuner.optimizer_step

        def spy(module, *args, own=own, places=places, **kwargs):
            own(module, *args, **kwargs)
            for name, parameter in module.adapted.trained().items():
                places.setdefault(name, set()).add(parameter.grad.data_ptr())

        with monkeypatch.context() as patch:
            patch.setattr(FineTuner, "optimizer_step", spy)
            found.append(weights(command, tmp_path / hook.__name__, "lora"))
        assert way == "plain" or all(len(each) == 1 for each in places.values())  # where a CUDA graph reads them
    assert all(torch.equal(tensor, found[1][key]) for key, tensor in found[0].items())
