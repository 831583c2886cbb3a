"""What has been found out about a handle goes with it, and is not copied."""

from __future__ import annotations

import copy
import gc
import pickle
import types
import weakref

import pytest
import torch
from torch import nn

from tests.support.passes import IDS, adapted, llama, loss_and_gradients
from variants import DoRA, LoRA
from variants.acceleration import accelerated, decoders
from variants.acceleration.basics.found import found_of


class Trainer:
    """Refers to itself, as trainers do: it and its handle end in a collection of garbage."""

    def __init__(self, handle) -> None:
        self.handle, self.run = handle, self.step

    def step(self) -> None:
        with accelerated(self.handle):
            self.handle.model(input_ids=IDS).logits.sum().backward()


@pytest.mark.parametrize("variant", [LoRA(r=2, target="all-linear"), DoRA(r=2, target="all-linear")])
def test_a_model_is_freed_by_one_collection(variant, monkeypatch):
    """All of it: a table elsewhere that held its maps until the handle is gone would keep them for another round."""
    monkeypatch.setattr(decoders, "available", lambda device: True)
    monkeypatch.setattr(decoders, "_kernels", gates)
    trainer = Trainer(adapted(llama, variant, low=False))
    trainer.run()
    assert set(found_of(trainer.handle)) == {"maps", "kernels", "activations"}
    parts = [weakref.ref(module) for module in trainer.handle.model.modules()]
    gc.collect()
    gc.disable()
    try:
        del trainer
        gc.collect()
        assert not [part() for part in parts if part() is not None]
    finally:
        gc.enable()


def gates(model: nn.Module, device: torch.device):
    """Overrides of a model's parts, and of a file, as kernels are."""
    yield from ((m, "forward", decoders._Gated(m, None).forward) for m in model.modules() if hasattr(m, "gate_proj"))
    yield types.ModuleType("modeling"), "apply_rotary_pos_emb", lambda: None


def test_a_copy_finds_out_for_itself(monkeypatch):
    monkeypatch.setattr(decoders, "available", lambda device: True)
    monkeypatch.setattr(decoders, "_kernels", gates)
    handle = adapted(llama, LoRA(r=2, target="all-linear"), low=False)
    loss, _ = loss_and_gradients(handle, True)
    again = copy.deepcopy(handle)
    assert found_of(handle) and not found_of(again) and not pickle.loads(pickle.dumps(found_of(handle)))
    with torch.no_grad():
        next(iter(handle.trained().values())).add_(1.0)
    assert loss_and_gradients(again, True)[0] == pytest.approx(loss, rel=1e-6) != loss_and_gradients(handle, True)[0]
