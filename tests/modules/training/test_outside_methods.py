"""Runs of methods from outside: what they take from data, from another run, and the figures they give."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import pytest
import torch

from modules.runs.results import ResultStore
from modules.training import setup
from modules.training.run import run, run_seeds
from tests.support.runs import adapter, planned
from variants import LoRA, registry
from variants.methods.lora import LoRALayer


class FromDataLayer(LoRALayer):
    """s(BA - B₀A₀): both come from data and A₀ and B₀ stay, as LoRA-GA's (arXiv 2407.05000)."""

    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.register_buffer("A0", torch.zeros_like(self.lora_A))
        self.register_buffer("B0", torch.zeros_like(self.lora_B))

    def delta_weight(self):
        return self.scaling * (self.lora_B @ self.lora_A - self.B0 @ self.A0)


@dataclass
class FromData(LoRA):
    layer = FromDataLayer

    @torch.no_grad()
    def init_from_data(self, model, batches):
        mean = sum(batch["input_ids"].float().mean() for batch in batches)
        for layer in (m for m in model.modules() if isinstance(m, FromDataLayer)):
            layer.A0.copy_(layer.lora_A.mul_(mean))
            layer.B0.copy_(layer.lora_B.fill_(0.01))

    def metrics(self, layers):
        return {"sum": layers[0].lora_B.sum(), "every": layers[0].lora_B}


@pytest.fixture
def spec(monkeypatch) -> str:
    monkeypatch.setattr(registry, "_registered", {**registry._registered})
    registry.register("from-data")(FromData)
    return "from-data"


def test_a_start_from_mnli_is_not_lost_to_one_from_data(command, spec):
    """`init_from_data` ran after it, and the effect of the MNLI run fell from 9e-2 to 1e-8."""
    flags = [*command, "--r", "2", "--lr", "0.01", "--trainer.limit_train_batches", "2", "--epochs", "1"]
    first, second = planned([*flags, "--tasks", "mrpc"], spec, mnli_init=True)
    with pytest.warns(UserWarning, match=r"FromData.metrics: 'every' is no number but Parameter of shape"):
        run(first)
    learnt = adapter(first, "best")
    _, adapted, _, _ = setup.attach_adapters([second])
    for key, value in adapted.adapter.tensors().items():
        assert torch.equal(value, learnt[key]), key
    result = ResultStore(first.results_dir).read(first.id)
    assert list(result.variant_metrics) == ["sum"] and isinstance(result.variant_metrics["sum"], float)


def test_seeds_that_cannot_be_stacked_are_trained_one_by_one(command, spec, monkeypatch, capsys):
    def hooked(self, *arguments):
        LoRALayer.__init__(self, *arguments)
        self.register_forward_hook(lambda *_: None)
        self.register_buffer("A0", torch.zeros_like(self.lora_A))
        self.register_buffer("B0", torch.zeros_like(self.lora_B))

    monkeypatch.setattr(FromDataLayer, "__init__", hooked)
    flags = [*command, "--r", "2", "--trainer.limit_train_batches", "1", "--epochs", "1", "--seeds", "0,1"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = run_seeds(planned(flags, spec))
    assert [r.seed for r in results] == [0, 1] and not any(r.cost.get("stacked") for r in results)
    assert "from-data cannot be stacked: its layers have hooks of their own" in capsys.readouterr().out
