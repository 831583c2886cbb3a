"""Seeds stacked on one backbone come out as their runs alone do; nothing passes from one seed to another."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import modules.acceleration.clipping
import modules.acceleration.packed_encoder
from modules.acceleration.cuda_graphs import GraphedAdamW
from modules.acceleration.varlen_attention import Padded, Sequences
from modules.benchmarks.glue import GLUE
from modules.experiments.command import main
from modules.experiments.stacking import stacks
from modules.launch import worker
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore, RunResult
from modules.training import acceleration
from modules.training.gradients import clip_each
from modules.training.parallel import devices
from modules.training.run import run, run_seeds
from modules.training.stacked_seeds import StackedTuner
from modules.training.trainer import checkpoint_path
from tests.support.adapter_files import facts
from tests.support.models import MODELS, inputs
from tests.support.runs import adapter, planned
from variants import LoRA, attach
from variants.adapters.stack import Stack
from variants.errors import VariantError

OUTSIDE = """
from dataclasses import dataclass
import torch
from torch import nn
from variants import AdapterLayer, Variant

class MyLayer(AdapterLayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config)
        n, m = site.in_features, site.out_features
        self.A1, self.A2 = (nn.Parameter(torch.randn(2, n, generator=rng) / 2) for _ in range(2))
        self.B1, self.B2 = nn.Parameter(torch.zeros(m, 2)), nn.Parameter(torch.randn(m, 2, generator=rng))

    def delta_weight(self):
        return (self.B1 @ self.A1) * (self.B2 @ self.A2)

@dataclass
class Hadamard(Variant):
    layer = MyLayer
    name = "hadamard"
"""
OPTIONS = {"adalora": {"init_r": 3, "target_r": 2}, "vera": {"r": 8}}


@pytest.fixture
def outside(tmp_path, monkeypatch) -> str:
    """A variant of somebody's own that has `delta_weight` alone."""
    (tmp_path / "own_hadamard.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_hadamard:Hadamard"
    sys.modules.pop("own_hadamard", None)


@pytest.fixture
def graphed(monkeypatch):
    """Both kinds of run take the path of CUDA graphs, without capturing any."""
    monkeypatch.setattr(acceleration, "uses_graphs", lambda config, precision: True)
    monkeypatch.setattr(GraphedAdamW, "EAGER", 10**9)


def compare(stacked: list[RunConfig], solo: list[RunConfig], tolerance: float = 1e-5) -> None:
    """Results and adapters of runs, the stacked ones read from their files."""
    for ours, alone in zip(stacked, solo, strict=True):
        assert ours.id == alone.id  # how a run is carried out is no part of it
        one, two = (ResultStore(c.results_dir).read(c.id) for c in (ours, alone))
        assert len(one.epochs) == len(two.epochs) and one.best["epoch"] == two.best["epoch"]
        for a, b in zip(one.epochs, two.epochs, strict=True):
            assert a == pytest.approx(b, rel=tolerance, abs=tolerance)
        assert one.parameters == two.parameters and one.variant_metrics == pytest.approx(two.variant_metrics)
        assert one.cost["steps"] == two.cost["steps"] and one.cost["tokens"] == two.cost["tokens"]
        assert one.cost["stacked"] == sum(other.task == ours.task for other in stacked) and "stacked" not in two.cost
        for which in ("best", "last"):
            theirs = adapter(alone, which)
            assert set(adapter(ours, which)) == set(theirs)
            for name, tensor in adapter(ours, which).items():
                torch.testing.assert_close(tensor, theirs[name], rtol=tolerance, atol=tolerance, msg=f"{which} {name}")
            assert facts(ours.folder / which) == facts(alone.folder / which)
        assert not list(ours.folder.glob("*.ckpt"))


def both(command: list[str], variant: str, tmp_path: Path) -> list[RunConfig]:
    """Three seeds stacked and alone, compared; two epochs, the last batch uneven, with clipping and weight decay."""
    training = {"lr": 5e-3, "batch_size": 16, "epochs": 2, "gradient_clip_val": 0.5, "weight_decay": 0.1}
    wishes = {"seeds": [0, 1, 2], "options": OPTIONS.get(variant, {}), "training": training}
    stacked = planned(command, variant, **wishes)
    run_seeds(stacked)
    solo = planned(command, variant, **wishes, results_dir=str(tmp_path / "solo"))
    for config in solo:
        run(config)
    compare(stacked, solo)
    return stacked


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        *("lora", "dora", "vera", "adalora", "lora_ga", "head", "bitfit", "adapter_h", "outside"),
        *("prefix_embed", "prefix_layer", "prefix_tuning"),
    ],
)
def test_three_stacked_seeds_equal_three_runs(command, tmp_path, outside, variant):
    stacked = both(command, outside if variant == "outside" else variant, tmp_path)
    trained = [{k: t for k, t in adapter(c).items() if not k.endswith("kept")} for c in stacked]
    assert not any(
        torch.equal(t, trained[1][name]) for name, t in trained[0].items() if t.shape == trained[1][name].shape
    )


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["lora", "adalora", "prefix_embed"])
def test_so_they_do_on_the_path_of_cuda_graphs(command, tmp_path, graphed, variant):
    both(command, variant, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "head_lr"),
    [("lora", 1e-3), ("lora_plus", None), ("bitfit", None), ("adalora", None), ("prefix_tuning", None)],
)
def test_stacked_rates_equal_runs_at_each(command, tmp_path, variant, head_lr):
    """Three rates of two seeds, decay and clipping included; the head's rate may be one for all."""
    rates_and_seeds(command, tmp_path, variant, head_lr)


@pytest.mark.slow
def test_so_they_do_where_a_graph_takes_the_step(command, tmp_path, graphed):
    rates_and_seeds(command, tmp_path, "lora", None)


def rates_and_seeds(command: list[str], tmp_path: Path, variant: str, head_lr: float | None) -> None:
    rates = [5e-4, 5e-5, 2e-3] if variant == "lora_plus" else [5e-3, 5e-4, 2e-2]  # B has 16 times as much there

    def plans(**where) -> list[RunConfig]:
        shared = {"batch_size": 16, "epochs": 2, "gradient_clip_val": 0.5, "weight_decay": 0.1}
        shared |= {"head_lr": head_lr} if head_lr else {}
        wishes = {"seeds": [0, 1], "options": OPTIONS.get(variant, {})} | where
        each = [planned(command, variant, **wishes, training=shared | {"lr": lr}) for lr in rates]
        return [run for runs in each for run in runs]

    stacked = plans()
    (together,) = stacks(stacked, rates=6)
    assert [run.seed for run in together] == [0, 0, 0, 1, 1, 1] and len(stacks(stacked)) == 3
    run_seeds(together)
    solo = plans(results_dir=str(tmp_path / "solo"))
    for config in solo:
        run(config)
    compare(stacked, solo)
    moved = [adapter(config, "last") for config in stacked]
    assert not any(torch.equal(moved[0][name], other[name]) for other in moved[2::2] for name in other if "A" in name)


def of_rows(self, query, key, value, scale, dropout, first):
    """What attention on a GPU computes, row by row; nothing for what is unused would be a number by chance."""
    q, k, v = (x.unflatten(1, (self.heads, -1)) for x in (query, key, value))
    bounds = (self.asked if first else self.ends).tolist()
    mixed = []
    for (a, b), (c, d) in zip(pairwise(bounds), pairwise(self.ends.tolist()), strict=True):
        assert d - c <= self.width and b - a in (d - c, int(first), 0)
        if b > a:
            parts = (x[None, i:j].transpose(1, 2) for x, i, j in ((q, a, b), (k, c, d), (v, c, d)))
            mixed.append(F.scaled_dot_product_attention(*parts, scale=scale).transpose(1, 2).flatten(2)[0])
    return torch.cat(mixed)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "side_by_side"), [("lora", False), ("dora", True), ("adapter_h", False)])
def test_so_they_do_packed_as_on_a_gpu(command, tmp_path, graphed, monkeypatch, variant, side_by_side):
    """One seed alone and two stacked: few lengths of batches, parts that are filled up, an evaluation's one part
    repeated; against padded runs."""
    monkeypatch.setattr(devices, "on_cpu", lambda config: False)

    def places(starts, ends, columns, tokens, backbone):
        heads = backbone.config.num_attention_heads
        if side_by_side:
            return Padded.of(starts, ends[:, : starts.shape[1]], tokens, columns[0], heads, torch.float32)
        return Sequences.of(starts, ends, tokens, heads, columns.shape[1], False)

    monkeypatch.setattr(modules.acceleration.packed_encoder, "places_of", places)
    monkeypatch.setattr(Sequences, "attend", of_rows)
    training = {"lr": 5e-3, "batch_size": 16, "epochs": 2, "gradient_clip_val": 0.5}

    def outcome(packed: bool) -> list[tuple[RunConfig, RunResult]]:
        monkeypatch.setattr(devices, "on_gpu", lambda config: packed)
        folder = str(tmp_path / ("packed" if packed else "padded"))
        configs = planned(command, variant, seeds=[0, 1, 2], training=training, results_dir=folder)
        return list(zip(configs, [run(configs[0]), *run_seeds(configs[1:])], strict=True))

    for (config, one), (other, two) in zip(outcome(False), outcome(True), strict=True):
        assert one.parameters == two.parameters and one.cost["tokens"] == two.cost["tokens"]
        for a, b in zip(one.epochs, two.epochs, strict=True):
            assert a == pytest.approx(b, rel=1e-4, abs=1e-4)
        others = adapter(other)
        for name, tensor in adapter(config).items():
            torch.testing.assert_close(tensor, others[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_start_from_other_runs_is_each_seed_s_own(command, tmp_path):
    """MRPC from the MNLI run of the same seed, both stacked in a worker, as the command does it."""
    flags = [*command, "--tasks", "mrpc", "--epochs", "1"]
    for name, join in (("together", "+".join), ("alone", None)):
        runs = planned(flags, seeds=[0, 1], mnli_init=True, results_dir=str(tmp_path / name))
        groups = stacks(runs)
        assert [[c.task for c in group] for group in groups] == [["mnli", "mnli"], ["mrpc", "mrpc"]]
        words = [join(c.id for c in group) for group in reversed(groups)] if join else [c.id for c in runs]
        assert worker.main([str(tmp_path / name), *words]) == 0
    alone = planned(flags, seeds=[0, 1], mnli_init=True, results_dir=str(tmp_path / "alone"))
    compare(planned(flags, seeds=[0, 1], mnli_init=True, results_dir=str(tmp_path / "together")), alone)


# ---- one seed does not touch another ------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [clip_each, modules.acceleration.clipping.clip_each], ids=["plain", "accelerated"])
def test_clipping_is_that_of_torch_for_each(clip):
    parameters = [nn.Parameter(torch.zeros(3, *shape)) for shape in ((4, 2), (5,), ())]
    generator = torch.Generator().manual_seed(0)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator) * torch.tensor([0.01, 1.0, 1e6]).view(
            -1, *[1] * (p.ndim - 1)
        )
    expected = []
    for index in range(3):
        alone = [nn.Parameter(p.detach()[index].clone()) for p in parameters]
        for one, p in zip(alone, parameters, strict=True):
            one.grad = p.grad[index].clone()
        nn.utils.clip_grad_norm_(alone, 0.7)
        expected.append([one.grad for one in alone])
    clip(parameters, 0.7)
    for index in range(3):
        for p, grad in zip(parameters, expected[index], strict=True):
            torch.testing.assert_close(p.grad[index], grad)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e4, float("inf")], ids=["explodes", "diverges"])
def test_a_seed_that_explodes_leaves_the_others_alone(command, tmp_path, monkeypatch, scale):
    """The gradients of seed 1 alone are scaled; the other seeds end as they do without it."""
    losses = StackedTuner._losses

    def exploding(self, batch):
        _, loss = losses(self, batch)
        factors = torch.ones(self.size)
        factors[1] = scale
        return (loss * factors).sum(), loss * factors

    training = {"lr": 5e-3, "batch_size": 16, "epochs": 2, "gradient_clip_val": 0.5}
    stacked = planned(command, seeds=[0, 1, 2], training=training)
    monkeypatch.setattr(StackedTuner, "_losses", exploding)
    results = run_seeds(stacked)
    monkeypatch.undo()
    solo = planned(command, seeds=[0, 2], training=training, results_dir=str(tmp_path / "solo"))
    for config, alone in zip((stacked[0], stacked[2]), solo, strict=True):
        run(alone)
        for name, tensor in adapter(alone).items():
            torch.testing.assert_close(adapter(config)[name], tensor, rtol=1e-5, atol=1e-5)
    diverged = scale == float("inf")
    assert [result.cost["diverged"] for result in results] == [False, diverged, False]
    assert [len(result.epochs) for result in results] == [2, 1 if diverged else 2, 2]  # alone it would stop as well
    assert [result.cost["steps"] for result in results] == [6, 3 if diverged else 6, 6]


def test_dropout_of_adapters_differs_between_seeds():
    model = MODELS["roberta"]().eval()
    adapted = attach(model, LoRA(r=2, dropout=0.5), 0, name="0")
    adapted.add("1", LoRA(r=2, dropout=0.5), 0)  # the same values
    with torch.no_grad():
        for name in ("0", "1"):
            adapted.switch(name)
            for layer in adapted.layers:
                layer.lora_B.fill_(0.1)
    Stack(adapted, ["0", "1"])
    batch = {name: torch.cat([rows, rows]) for name, rows in inputs("roberta", batch=4).items()}
    one, two = model(**batch).logits.unflatten(0, (2, -1))
    torch.testing.assert_close(one, two)
    model.train()
    one, two = model(**batch).logits.unflatten(0, (2, -1))
    assert (one - two).abs().max() > 1e-3


# ---- carried out from the command ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_stacks_what_is_missing(command, monkeypatch, capfd):
    monkeypatch.setattr(
        "modules.launch.jobs.launch.run_workers", lambda words, folder, *_, **__: worker.main([folder, *words])
    )
    flags = [*command, "--epochs", "1", "--jobs", "1", "--stack_seeds"]
    (done,) = planned([*command, "--epochs", "1"], seeds=[1])
    run(done)
    before = done.folder.with_suffix(".json").read_bytes()
    assert main([*flags, "--seeds", "0,1,2"], GLUE) == 0
    shown = capfd.readouterr().out
    assert "3 runs, 1 done before" in shown and "rte lora seeds 0,2: epoch 1/1" in shown
    assert done.folder.with_suffix(".json").read_bytes() == before
    found = {result.seed: result.cost.get("stacked") for result in ResultStore(done.results_dir).all()}
    assert found == {0: 2, 1: None, 2: 2}
    table = (Path(done.results_dir) / "tables" / "glue.md").read_text()
    assert "stacked" not in table  # the step time is that of the seed that ran alone
    assert main([*flags, "--seeds", "0,1,2"], GLUE) == 0
    assert "3 runs, 3 done before" in capfd.readouterr().out
    done.folder.with_suffix(".json").unlink()
    assert main([*flags, "--seeds", "0,1"], GLUE) == 0  # one is left: an ordinary run
    assert ResultStore(done.results_dir).read(done.id).cost.get("stacked") is None


@pytest.mark.slow
def test_seeds_are_dealt_to_devices_and_come_out_the_same(command, monkeypatch, tmp_path):
    """A stack for each device; no run is spread over two, and which seeds were stacked together changes nothing."""
    given = []

    def carry_out(words, folder, jobs, trainer, stacked):
        given.append((words, jobs, trainer.get("devices"), stacked))
        return worker.main([folder, *words])

    flags = [*command, "--epochs", "1", "--stack_seeds", "--seeds", "0,1,2", "--trainer.limit_train_batches", "2"]
    whole = ["--results_dir", str(tmp_path / "whole")]
    monkeypatch.setattr("modules.launch.jobs.launch.run_workers", carry_out)
    assert main([*flags, *whole, "--jobs", "7"], GLUE) == 0
    assert main([*flags, "--trainer.devices", "2"], GLUE) == 0
    one, two = ({r.seed: r for r in ResultStore(folder).all()} for folder in (tmp_path / "whole", tmp_path / "results"))
    assert given[0] == (["+".join(one[seed].id for seed in (0, 1, 2))], 7, None, True)
    assert given[1] == ([f"{one[0].id}+{one[2].id}", one[1].id], 2, 2, True)
    assert {seed: r.cost.get("stacked") for seed, r in two.items()} == {0: 2, 1: None, 2: 2}
    for seed, result in two.items():
        assert result.id == one[seed].id and result.environment["devices"] == 1
        assert result.epochs[0] == pytest.approx(one[seed].epochs[0], abs=1e-5)
        assert "devices" not in RunConfig.read(str(tmp_path / "results"), result.id).trainer


@pytest.mark.parametrize(
    ("flags", "reason"),
    [(["--variant", "full"], "full cannot be stacked"), (["--variant", "eva"], "eva cannot be stacked"),
     (["--trainer.devices", "2", "--trainer.strategy", "ddp"], "one device"),
     (["--trainer.precision", "16-mixed"], "fp16"), (["--plan"], "--plan"),
     (["--variant", "pissa", "--quantise", "nf4"], "before that is put in few bits")],
)  # fmt: skip
def test_what_cannot_be_stacked_is_refused_in_one_line(command, capsys, tmp_path, flags, reason):
    assert main([*command, "--stack_seeds", *flags], GLUE) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1 and not (tmp_path / "results" / "runs").exists()


def test_only_adapters_of_one_configuration_stack():
    adapted = attach(MODELS["roberta"](), LoRA(r=2), 0, name="a")
    adapted.add("b", LoRA(r=3), 1)
    with pytest.raises(VariantError, match="one variant"):
        Stack(adapted, ["a", "b"])
    adapted.add("c", LoRA(r=2), 1)
    Stack(adapted, ["a", "c"])
    with pytest.raises(VariantError, match="gets 3 rows"):
        adapted.model(**inputs("roberta", batch=3))


def test_released_the_adapters_hold_what_was_learnt():
    model = MODELS["roberta"]().eval()
    adapted = attach(model, LoRA(r=2), 0, name="0")
    adapted.add("1", LoRA(r=2), 1)
    batch = inputs("roberta", batch=4)
    stack = Stack(adapted, ["0", "1"])
    with torch.no_grad():
        for p in stack.trained().values():
            p += torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
        stacked = model(**{name: torch.cat([rows, rows]) for name, rows in batch.items()}).logits.unflatten(0, (2, -1))
        stack.release()
        for own, name in zip(stacked, ("0", "1"), strict=True):
            adapted.switch(name)
            torch.testing.assert_close(model(**batch).logits, own)


@pytest.mark.slow
def test_a_stopped_stack_goes_on_to_the_same_end(command, tmp_path, monkeypatch):
    """Stopped in its second epoch, the same seeds go on from the first; another set of seeds starts anew."""
    from modules.training.stacked_seeds import StackedHistory

    wishes = {"seeds": [0, 1], "options": OPTIONS["adalora"]}
    whole = planned(command, "adalora", **wishes)
    run_seeds(whole)
    broken = planned(command, "adalora", **wishes, results_dir=str(tmp_path / "broken"))

    def stop(self, trainer, *args):
        if trainer.current_epoch == 1 and trainer.global_step == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StackedHistory, "on_train_batch_start", stop)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run_seeds(broken)
    left = checkpoint_path(broken)
    assert left.parent == broken[0].folder and left.is_file() and left != checkpoint_path(broken[:1])
    assert not any("query.weight" in name for name in torch.load(left, weights_only=True)["state_dict"])
    steps = []
    training_step = StackedTuner.training_step
    monkeypatch.setattr(StackedTuner, "training_step", lambda *args: (steps.append(1), training_step(*args))[1])
    run_seeds(broken)
    assert len(steps) == 6  # the second epoch alone
    for one, two in zip(whole, broken, strict=True):
        a, b = (ResultStore(c.results_dir).read(c.id) for c in (one, two))
        assert a.epochs == b.epochs and a.best == b.best and a.cost["steps"] == b.cost["steps"]
        assert all(torch.equal(tensor, adapter(two)[name]) for name, tensor in adapter(one).items())
