"""Blocks computed again and activations on the host: nothing that is computed changes."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.backbones import recomputation
from modules.backbones.recomputation import checkpoint_blocks, draws, offloaded
from modules.training.run import run, run_seeds
from tests.support.causal_models import tiny, tokens
from tests.support.runs import adapter, in_two, planned
from variants import LoRA, attach, registry
from variants.acceleration import accelerated
from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.stack import Stack
from variants.contract.models import shift
from variants.errors import UserError

VARIANTS = [name for name in registry.BUILT_IN if name not in ("head", "full", "galore", "bitfit")]
SIZES = {"r": 2, "p": 2, "init_r": 3, "target_r": 2, "top": 1, "block": 4, "n": 30}
DROPPED = {"attention_dropout": 0.3, "resid_pdrop": 0.3}


def variant_of(name: str, **options):
    cls = registry.resolve(name)
    fields = cls.__dataclass_fields__
    return cls(**{key: value for key, value in (SIZES | options).items() if key in fields})


def gradients(handle: AdaptedModel | Stack, ids: Tensor, fast: bool = False, offload: bool = False) -> dict:
    """Of a training pass of a language model; random numbers are those of one seed."""
    for parameter in handle.trained().values():
        parameter.grad = None
    torch.manual_seed(0)
    handle.model.train()
    with ExitStack() as block:
        block.enter_context(offloaded(offload))
        if fast:
            block.enter_context(accelerated(handle))
        scores = handle.model(input_ids=ids, use_cache=False).logits
        F.cross_entropy(scores[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return {name: p.grad for name, p in handle.trained().items()}


def apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max(((found[n] - g).abs().max() / (1e-9 + g.abs().max())).item() for n, g in expected.items())


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
@pytest.mark.parametrize("name", VARIANTS)
def test_every_method_has_the_same_gradients(name: str, model_type: str) -> None:
    """Dropout of the model and of the method is drawn again as it was; blocks, prefixes and maps alike."""
    changes = {key: value for key, value in DROPPED.items() if hasattr(tiny(model_type).config, key)}
    handle = attach(tiny(model_type, **changes), variant_of(name, dropout=0.2))
    for index, tensor in enumerate(handle.trained().values()):
        shift(tensor.data, index)
    expected = [gradients(handle, tokens(), fast) for fast in (False, True)]
    assert apart(gradients(handle, tokens(), offload=True), expected[0]) == 0
    assert apart(gradients(handle, tokens(), fast=True, offload=True), expected[1]) < 1e-5
    assert checkpoint_blocks(handle, "on", on_gpu=False)
    calls = count_calls(handle.model)
    for fast in (False, True):
        calls.clear()
        assert apart(gradients(handle, tokens(), fast), expected[fast]) < 1e-5
        assert len(calls) == 2, "the first block's last map is computed twice"


def count_calls(model: nn.Module) -> list:
    """A list that grows with each pass through the last map of the first block."""
    path = {"llama": "model.layers.0.mlp.down_proj", "gpt2": "transformer.h.0.mlp.c_proj"}[model.config.model_type]
    calls: list = []
    model.get_submodule(path).register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("name", ["lora", "dora", "vera", "adapter_h"])
def test_stacked_seeds(name: str) -> None:
    adapted = attach(tiny("llama", attention_dropout=0.2), variant_of(name))
    adapted.add("other", variant_of(name), 1)
    for index, tensor in enumerate(t for a in adapted.adapters.values() for t in a.tensors().values()):
        shift(tensor.data, index)
    stack = Stack(adapted, ["default", "other"])
    expected = gradients(stack, tokens(4), fast=True)
    assert checkpoint_blocks(stack, "on", on_gpu=False)
    assert apart(gradients(stack, tokens(4), fast=True), expected) < 1e-5


# ---- what is asked for -------------------------------------------------------------------------------------------


def test_on_by_itself_for_large_models_on_a_gpu(monkeypatch) -> None:
    handle = attach(tiny("llama"), LoRA(r=2))
    assert not checkpoint_blocks(handle, "auto", on_gpu=True)
    monkeypatch.setattr(recomputation, "LARGE", 1000)
    assert not checkpoint_blocks(handle, "auto", on_gpu=False) and not checkpoint_blocks(handle, "off", on_gpu=True)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in handle.model.modules())
    assert checkpoint_blocks(handle, "auto", on_gpu=True)
    assert any(getattr(module, "gradient_checkpointing", False) for module in handle.model.modules())


def test_models_that_cannot_say_so(monkeypatch) -> None:
    monkeypatch.setattr(recomputation, "LARGE", 1000)
    handle = attach(tiny("ctrl"), LoRA(r=2, target="all-linear"))
    with pytest.raises(UserError, match="--gradient_checkpointing on: CTRLLMHeadModel does not support it"):
        checkpoint_blocks(handle, "on", on_gpu=False)
    assert not checkpoint_blocks(handle, "auto", on_gpu=True)


@dataclass
class Mine(LoRA):
    """A method of somebody else, which may draw what it likes."""


def test_random_numbers_are_kept_where_any_are_drawn() -> None:
    def drawn(model: nn.Module, variant=LoRA(r=2)) -> bool:  # noqa: B008
        return draws(attach(model, variant))

    assert not drawn(tiny("llama"))
    assert not drawn(tiny("gpt2", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)), "its summary is no block"
    assert drawn(tiny("llama", attention_dropout=0.1)) and drawn(tiny("gpt2"))
    assert drawn(tiny("seed_oss", residual_dropout=0.1)), "a function's dropout, of a model that is but an alias"
    assert drawn(tiny("llama"), LoRA(r=2, dropout=0.1)) and drawn(tiny("llama"), Mine(r=2))
    adapted = attach(tiny("llama"), LoRA(r=2, dropout=0.1))
    adapted.add("other", LoRA(r=2, dropout=0.1), 1)
    assert draws(Stack(adapted, ["default", "other"]))


# ---- whole runs --------------------------------------------------------------------------------------------------


def same(command: list[str], tmp_path, carry_out, variant: str = "lora", seeds: str = "0", **options) -> None:
    """Runs with blocks computed again and activations on the host are the runs without."""
    command = [*command, "--epochs", "1", "--seeds", seeds]
    plain = planned(command, variant, options=options)
    less = [*command, "--gradient_checkpointing", "on", "--activation_offload"]
    again = planned(less, variant, options=options, results_dir=str(tmp_path / "again"))
    assert all(config.gradient_checkpointing == "on" and config.activation_offload for config in again)
    assert [config.id for config in plain] == [config.id for config in again]
    carry_out(plain)
    carry_out(again)
    for one, two in zip(plain, again, strict=True):
        for name, tensor in adapter(one).items():
            torch.testing.assert_close(adapter(two)[name], tensor, rtol=1e-5, atol=1e-6)


OPTIONS = {"lora": {"dropout": 0.1}, "adalora": {"init_r": 3, "target_r": 2}, "full": {}}


@pytest.mark.parametrize("variant", OPTIONS)
def test_a_run_comes_out_the_same(command, tmp_path, variant) -> None:
    """Of packed rows, with the model's and the method's dropout."""
    same(command, tmp_path, lambda configs: run(configs[0]), variant, **OPTIONS[variant])


def test_stacked_runs_come_out_the_same(command, tmp_path) -> None:
    same(command, tmp_path, run_seeds, seeds="0,1")


@pytest.mark.slow
def test_a_run_in_two_processes_comes_out_the_same(command, tmp_path) -> None:
    command = [*command, "--trainer.devices", "2"]
    same(command, tmp_path, lambda configs: in_two(*configs), "dora")
