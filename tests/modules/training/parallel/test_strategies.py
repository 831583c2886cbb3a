"""Two processes compute what one does, in every way to take a step."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy

from modules.runs.results import ResultStore
from modules.training.parallel.strategies import strategy, without_questions
from tests.support.runs import adapter, carry_out, in_two, planned

FEW = ("lora", "adalora", "full")
EVERY = (*FEW, "dora", "vera", "bitfit", "adapter_h", "prefix_layer")
SMALL = {"adalora": {"init_r": 3, "target_r": 2}, "vera": {"r": 8}, "prefix_layer": {"p": 2}, "dora": {"r": 2}}
SMALL["galore"] = {"r": 1}  # the gradients of so few rows have hardly more directions, and Adam's steps are of any size
RAMP, NORMED = (f"tests.support.outside_variants:{name}" for name in ("Ramp", "Normed"))
HOOKS = ("lora_ga", "eva", "lora_pro", "galore", "relora", "pissa", RAMP, NORMED)
"""A method for each hook: initial values from gradients and from activations, gradients before a step, an optimizer,
moments that start anew, a first update off the base, a penalty that grows with the step. AdaLoRA is among the few."""
ACCUMULATED, SHARDS, REFERENCE = {"accumulate_grad_batches": 2}, {"strategy": "fsdp2"}, {"reference": True}
WAYS = [
    *(("adalora", ACCUMULATED, {}, {}), ("lora", {}, {}, REFERENCE)),
    *(("lora", {}, SHARDS, REFERENCE), ("adalora", ACCUMULATED, SHARDS, {})),
]
"""Accumulated gradients, a base in shards, and DistributedDataParallel, which averages under ``--reference``: an
independent implementation."""


def both(command, tmp_path, trainer, variants=FEW, ways=WAYS) -> list:
    """(one process's run, two processes' run): of the variants as they are, and of others in some way."""
    ways = [*((variant, {}, {}, {}) for variant in variants), *ways]
    pairs, done = [], {}
    for number, (variant, options, spread, changes) in enumerate(ways):
        (one,) = planned(command, variant, options=SMALL.get(variant, {}), trainer=trainer | options)
        done[one.id] = one
        changes = changes | {"trainer": one.trainer | {"devices": 2} | spread}
        two = dataclasses.replace(one, results_dir=str(tmp_path / str(number)), **changes)
        two.write()
        pairs.append((one, two))
    carry_out(*done.values())
    in_two(*(two for _, two in pairs))
    return pairs


def compare(pairs, near: float) -> None:
    """Losses, metrics, the variant's own figures (AdaLoRA's ranks) and weights."""
    for one, two in pairs:
        assert one.id == two.id  # how a run is carried out does not name it
        a, b = (ResultStore(run.results_dir).read(run.id) for run in (one, two))
        assert [r.environment["devices"] for r in (a, b)] == [1, 2]
        for epoch, other in zip(a.epochs, b.epochs, strict=True):
            assert epoch == pytest.approx(other, abs=near), one.title
        assert a.variant_metrics == pytest.approx(b.variant_metrics, abs=near), one.title
        ours, theirs = adapter(one), adapter(two)
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=near, msg=f"{one.title}: {name}")


@pytest.mark.slow
def test_two_processes_compute_what_one_does(command, tmp_path):
    """Uneven last batches in training and evaluation, gradients accumulated or not, fp32, no dropout: to 1e-5.

    The contract's DDP property tries every other method (`variants.contract.ddp`).
    """
    compare(both(command, tmp_path, {"accelerator": "cpu"}), 1e-5)


@pytest.mark.slow
def test_every_hook_of_two_processes_does_what_it_does_in_one(command, tmp_path):
    """Alone, under accumulated gradients, and averaged by DistributedDataParallel."""
    ways = [(variant, *rest) for rest in ((ACCUMULATED, {}, {}), ({}, {}, REFERENCE)) for variant in (NORMED, RAMP)]
    compare(both([*command, "--trainer.limit_train_batches", "3"], tmp_path, {"accelerator": "cpu"}, HOOKS, ways), 1e-5)


@pytest.mark.slow
@pytest.mark.gpu("two of them, each replaying its own CUDA graphs", devices=2)
def test_two_gpus_compute_what_one_does(command, tmp_path):
    """The same with graphs, in enough epochs for each length to come up again."""
    compare(both([*command, "--epochs", "4"], tmp_path, {"accelerator": "gpu"}, EVERY), 1e-5)
    compare(both([*command, "--epochs", "4"], tmp_path, {"accelerator": "gpu"}), 1e-5)


def test_runs_of_one_torchrun_do_not_meet_each_others_processes(monkeypatch):
    """Its store lasts for all of them: what one run's ranks have left there, the next one's do not see."""
    lasting, stores = dist.HashStore(), []
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setattr(dist, "rendezvous", lambda *_, **__: iter([(lasting, 1, 2)]))
    monkeypatch.setattr(dist, "init_process_group", lambda *_, store, **__: stores.append(store))
    monkeypatch.setattr(DDPStrategy, "setup_distributed", lambda self: None)
    for run in ("a", "b"):
        spread = strategy("ddp", averages=True, run=run)
        monkeypatch.setattr(type(spread), "root_device", torch.device("cpu"))
        spread.setup_distributed()
    stores[0].set("address", "of a")
    assert stores[0].check(["address"]) and not stores[1].check(["address"])


def test_sigterm_ends_one_of_several_processes_at_once():
    """Lightning's handler would wait in a message to the others, which wait for this one's gradients."""
    handlers = []
    loop = SimpleNamespace(epoch_loop=SimpleNamespace())
    connector = SimpleNamespace(register_signal_handlers=lambda: handlers.append("sigterm"))
    without_questions(SimpleNamespace(fit_loop=loop, world_size=2, _signal_connector=connector))
    connector.register_signal_handlers()
    assert not handlers
