"""Liger's kernels are put in for one model's implementation, taken out for the next, and all compute one loss."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from transformers.models.llama import modeling_llama

from modules.efficiency.steps import backbones, decoders, grid
from modules.efficiency.steps.batches import full_batches
from modules.efficiency.steps.grid import Implementation
from modules.efficiency.steps.implementations import build_trainee
from tests.support.efficiency import CPU

LLAMA = {"model_type": "llama", "vocab_size": 100, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
LLAMA |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32}


@pytest.fixture
def liger(monkeypatch) -> list[dict]:
    """A stand-in for Liger that replaces one function for all models, as Liger does; what it is called with."""
    called = []

    def apply(**options):
        called.append(options)
        modeling_llama.apply_rotary_pos_emb = lambda *args: None

    files = {"liger_kernel": {}, "liger_kernel.transformers": {"apply_liger_kernel_to_llama": apply}}
    for name, contents in files.items():
        monkeypatch.setitem(sys.modules, name, module := types.ModuleType(name))
        vars(module).update(contents)
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", modeling_llama.apply_rotary_pos_emb)
    monkeypatch.setattr(decoders, "has_kernels", lambda model: True)
    return called


def test_what_is_replaced_for_all_models_comes_back(liger):
    """However often it was replaced; and where nothing was, nothing is changed."""
    own, model = modeling_llama.apply_rotary_pos_emb, object()
    decoders.restore()
    assert modeling_llama.apply_rotary_pos_emb is own
    for losses in (True, False):
        decoders.patch(model, losses=losses)
        assert modeling_llama.apply_rotary_pos_emb is not own
    decoders.restore()
    assert modeling_llama.apply_rotary_pos_emb is own
    assert [options["fused_linear_cross_entropy"] for options in liger] == [True, False]
    assert all(options["model"] is model and not options["cross_entropy"] for options in liger)


def test_which_implementations_have_kernels_of_liger(liger):
    """The limit, full fine-tuning and PEFT with Liger; ours takes what it needs by itself."""
    master, own = backbones.build(LLAMA, CPU), modeling_llama.apply_rotary_pos_emb
    options = {"lora": grid.METHODS["lora"]}
    expected = {"limit": [False], "full": [True], "ours": [], "peft-liger": [True], "peft": []}
    for library, losses in expected.items():
        liger.clear()
        method = "" if library in grid.WITHOUT_METHOD else "lora"
        build_trainee(Implementation(library, method, "eager"), master, options, bf16=library == "limit")
        assert [one["fused_linear_cross_entropy"] for one in liger] == losses, library
        assert (modeling_llama.apply_rotary_pos_emb is own) == (not losses), library
    decoders.restore()


def test_without_a_gpu_there_are_no_kernels():
    assert not decoders.has_kernels(backbones.build(LLAMA, CPU))


def test_the_models_own_loss_is_the_benchmarks():
    """Of rows without padding whose tokens are all targets but the first."""
    model = backbones.build(LLAMA, CPU)
    (batch, *_) = full_batches(LLAMA, 3, 16, CPU)
    with torch.no_grad():
        assert decoders.own_loss(model, batch).item() == pytest.approx(backbones.loss_of(model, batch).item(), rel=1e-5)
