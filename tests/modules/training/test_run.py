"""Runs from the command to the result file: what is trained, kept, resumed, split over processes and started from."""

import json
import math
from pathlib import Path

import pytest
import torch

from modules.benchmarks.glue import GLUE
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore
from tests.support.runs import adapter, carry_out, planned, start, start_and_kill
from variants.errors import UserError
from variants.layer import AdapterLayer
from variants.registry import resolve

# ---- one run ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["lora", "full", "head"])
def test_the_kept_adapter_scores_what_the_result_says(command, variant):
    """Loading ``best`` onto a fresh backbone and scoring it by hand gives the best epoch's metric."""
    from modules.backbones.loading import load_backbone
    from modules.benchmarks.glue.sources import FolderSource
    from modules.benchmarks.glue.tasks import TASKS
    from variants import load

    (run,) = planned(command, variant)
    from modules.training.run import run as train

    result = train(run)
    assert [figures["epoch"] for figures in result.epochs] == [1, 2]
    assert result.best[result.metric] == max(figures[result.metric] for figures in result.epochs)
    model, tokenizer, _ = load_backbone(run.backbone["spec"], TASKS["rte"], seed=5)  # another head: it is in the file
    load(model, run.folder / "best", strict=True)
    rows = FolderSource(run.data["spec"]).load(TASKS["rte"])["validation"]
    first, second = zip(*rows.texts, strict=True)
    inputs = tokenizer(list(first), list(second), padding=True, return_tensors="pt")
    with torch.no_grad():
        predicted = model.eval()(**inputs).logits.argmax(-1)
    hits = sum(int(p) == label for p, label in zip(predicted, rows.labels, strict=True))
    assert result.best["accuracy"] == pytest.approx(hits / len(rows), abs=1e-9)


@pytest.mark.slow
def test_the_result_holds_what_settles_a_comparison(command):
    (run,) = planned(command)
    carry_out(run)
    result = ResultStore(run.results_dir).read(run.id)
    assert result.parameters["adapter"] == 2 * 2 * (16 + 16) * 8  # q and v of 2 layers, r = 8
    assert result.parameters["head"] == 16 * 16 + 16 + 16 * 2 + 2
    assert result.data["sizes"] == {"train": 45, "validation": 11}
    assert result.cost["steps"] == 2 * math.ceil(45 / 8)
    assert result.cost["step_ms"] > 0 and result.cost["peak_memory_mb"] > 50 and result.cost["wall_s"] > 0
    assert result.environment["torch"] == torch.__version__.partition("+")[0] or result.environment["torch"]
    assert result.training["batch_size"] == 8 and result.training["lr"] > 0 and not result.cost["diverged"]
    assert not (run.folder / "last.ckpt").exists()  # a finished run keeps its adapters, not its optimizer


def test_dropout_is_on_while_training_and_off_in_evaluation(command, monkeypatch):
    from modules.training.lightning_module import FineTuner
    from modules.training.run import run as train

    modes = {"training_step": set(), "validation_step": set()}
    for name in modes:
        original = getattr(FineTuner, name)

        def spy(self, *args, name=name, original=original, **kwargs):
            modes[name].add(self.model.training)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(FineTuner, name, spy)
    train(planned(command)[0])
    assert modes == {"training_step": {True}, "validation_step": {False}}


def test_the_variant_is_told_of_each_optimizer_step_with_its_gradients(command, monkeypatch):
    """Numbers 1..total under gradient accumulation, gradients in place, weights already moved."""
    from modules.training.run import run as train
    from variants.methods.lora import LoRA

    calls, before = [], {}

    def after_step(self, layers, step, total):
        weight = layers[0].lora_B
        assert weight.grad is not None and weight.grad.abs().sum() > 0
        assert "weight" not in before or not torch.equal(weight, before["weight"])
        before["weight"] = weight.detach().clone()
        calls.append((step, total))

    monkeypatch.setattr(LoRA, "after_step", after_step)
    train(planned([*command, "--trainer.accumulate_grad_batches", "2"])[0])
    steps = 2 * math.ceil(math.ceil(45 / 4) / 2)
    assert calls == [(step, steps) for step in range(1, steps + 1)]


def test_a_penalty_pulls_on_the_weights(command, monkeypatch, tmp_path):
    from modules.training.run import run as train
    from variants.methods.lora import LoRA

    def size(run: RunConfig) -> float:
        return sum(t.square().sum().item() for key, t in adapter(run).items() if key.endswith("lora_B"))

    (plain,) = planned([*command, "--lr", "0.01"])
    train(plain)
    monkeypatch.setattr(LoRA, "penalty", lambda self, layers, *_: 100 * sum(la.lora_B.square().sum() for la in layers))
    (pulled,) = planned([*command, "--lr", "0.01", "--results_dir", str(tmp_path / "pulled")])
    train(pulled)
    assert size(pulled) < 0.5 * size(plain)


def test_a_parameter_without_gradient_is_named(command, monkeypatch):
    from modules.training.run import run as train
    from variants.methods.lora import LoRALayer

    monkeypatch.setattr(LoRALayer, "forward", lambda self, x, y: y + 0 * self.lora_A.sum())
    with pytest.raises(UserError, match="lora_B trains but gets no gradient"):
        train(planned(command)[0])


@pytest.mark.parametrize("all_of_them", [False, True])
def test_a_layer_that_no_pass_calls_is_named_before_the_first_step(all_of_them, command, monkeypatch):
    """peft #761, AdaLoRA #21: one of several is named, since a router may call it later; all of them end the run."""
    from modules.training.run import run as train
    from variants.adapters.adapted_model import AdaptedModel
    from variants.methods.lora import LoRALayer

    def forward(layer, x, y):
        return y if all_of_them or ".0." in layer.site.path else AdapterLayer.forward(layer, x, y)

    monkeypatch.setattr(LoRALayer, "forward", forward)
    paths = lambda adapted: [layer.site.path for layer in adapted.layers]  # noqa: E731
    monkeypatch.setattr(AdaptedModel, "uncalled", lambda own: [p for p in paths(own) if all_of_them or ".0." in p])
    (planned_run,) = planned(command)
    if all_of_them:
        with pytest.raises(UserError, match="no pass has called .*query before the first step .* other maps"):
            train(planned_run)
    else:
        with pytest.warns(
            UserWarning, match=r"no pass has called .*\.0\..*query before the first step \(2 such layers\)"
        ):
            train(planned_run)


# ---- killed and resumed -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_very_same_numbers(command, tmp_path, capfd):
    """SIGKILL after some epoch, start again: figures and weights are those of an unbroken run, bit for bit."""
    flags = [*command, "--epochs", "12"]
    (whole,) = planned(flags)
    carry_out(whole)
    (broken,) = planned([*flags, "--results_dir", str(tmp_path / "broken")])
    start_and_kill(broken, (broken.folder / "last.ckpt").exists)
    checkpoint = torch.load(broken.folder / "last.ckpt", weights_only=True)
    assert 1 <= checkpoint["epoch"] + 1 < 12
    assert all("embeddings" not in key for key in checkpoint["state_dict"])  # never the frozen backbone
    capfd.readouterr()
    carry_out(broken)
    assert f"rte lora seed 0: goes on at epoch {checkpoint['epoch'] + 2} of 12" in capfd.readouterr().out
    results = [ResultStore(run.results_dir).read(run.id) for run in (whole, broken)]
    assert results[0].epochs == results[1].epochs
    for which in ("best", "last"):
        a, b = adapter(whole, which), adapter(broken, which)
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_what_is_done_is_not_done_again(command, in_this_process):
    from modules.experiments.command import main

    assert main([*command, "--variant", "head"], GLUE) == 0
    results = Path(command[5])
    (file,) = (results / "runs").glob("*.json")
    stamp = file.stat().st_mtime_ns
    assert main([*command, "--variant", "head"], GLUE) == 0
    assert file.stat().st_mtime_ns == stamp
    file.write_text(file.read_text()[:100])  # half a file: moved aside, and run again
    assert main([*command, "--variant", "head"], GLUE) == 0
    assert json.loads(file.read_text())["id"] == file.stem
    assert list((results / "runs").glob("*.corrupt-*"))
    assert main([*command, "--variant", "head", "--force"], GLUE) == 0
    assert file.stat().st_mtime_ns != stamp


@pytest.mark.slow
def test_two_workers_share_a_list(command, tmp_path):
    """Each run is done once: the second worker finds it locked or done."""
    runs = [run for seed in "01" for run in planned([*command, "--variant", "head", "--seeds", seed], "head")]
    workers = [start(*order, output=tmp_path / "log") for order in (runs, runs[::-1])]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert all(ResultStore(run.results_dir).done(run.id) for run in runs)
    assert (tmp_path / "log").read_text().count("epoch 2/2") == 2


# ---- precision, accumulation ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradient_accumulation_gives_adalora_the_same_ranks(command, tmp_path, precision):
    """Eight rows at once, or four and four: the allocator sees the same gradients."""
    flags = [*command, "--lr", "0.01", "--target_r", "2", "--init_r", "4", "--trainer.precision", precision]
    (once,) = planned([*flags, "--trainer.limit_train_batches", "5"], "adalora", options={"init_r": 4, "target_r": 2})
    halves = ["--trainer.limit_train_batches", "10", "--trainer.accumulate_grad_batches", "2"]
    (twice,) = planned([*flags, *halves], "adalora", options={"init_r": 4, "target_r": 2})
    carry_out(once, twice)
    results = [ResultStore(run.results_dir).read(run.id) for run in (once, twice)]
    assert results[0].variant_metrics == results[1].variant_metrics
    assert results[0].variant_metrics["budget"] == 4 * 2
    ranks = {value for key, value in results[0].variant_metrics.items() if key.startswith("rank/")}
    assert len(ranks) > 1, "the budget was spread evenly: nothing was allocated"


# ---- starting from MNLI --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_mrpc_starts_from_the_mnli_run_of_the_same_seed(command):
    from variants.adapters.starting import start_from
    from variants.formats.native import read_adapter

    runs = planned([*command, "--tasks", "mrpc"], mnli_init=True)
    assert [run.task for run in runs] == ["mnli", "mrpc"] and runs[1].init_from["id"] == runs[0].id
    (alone,) = planned([*command, "--tasks", "mrpc"])
    assert alone.id != runs[1].id
    carry_out(*runs)
    assert all(ResultStore(run.results_dir).done(run.id) for run in runs)

    from modules.backbones.loading import load_backbone
    from modules.benchmarks.glue.tasks import TASKS
    from variants import attach

    model, _, _ = load_backbone(runs[1].backbone["spec"], TASKS["mrpc"], 0)
    adapted = attach(model, resolve("lora")(**runs[1].options), 0)
    fresh = {key: value.clone() for key, value in adapted.state_dict().items()}
    start_from(adapted, read_adapter(runs[0].folder / "best")[1], str(runs[0].folder / "best"))
    learnt = adapter(runs[0], "best")
    for key, value in adapted.state_dict().items():
        expected = fresh if key.startswith("classifier.out_proj") else learnt  # 3 classes there, 2 here
        assert torch.equal(value, expected[key]), key
