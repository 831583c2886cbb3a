"""Kernels for decoders are used where they compute what the model does, and nowhere else.

Liger's function and our programs of gated activations have stand-ins of plain PyTorch here, right ones and wrong ones;
no GPU and no Liger is needed.
"""

from __future__ import annotations

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import GemmaConfig, GemmaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.models.llama import modeling_llama

from tests.support.passes import IDS, adapted, distance, llama, loss_and_gradients, roberta
from variants import DoRA, LoRA
from variants.acceleration import accelerated, decoders, passes
from variants.acceleration.basics import policy

gated = pytest.importorskip("variants.acceleration.programs.gated", reason="needs Triton", exc_type=ImportError)

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="programs on a CPU need Triton's interpreter, which is off where there is a GPU"
)

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
SIZES |= {"vocab_size": 100, "intermediate_size": 48}


def gemma() -> nn.Module:
    """Weights of norms around 0, and GELU."""
    model = GemmaForCausalLM(GemmaConfig(**SIZES))
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            nn.init.normal_(module.weight, std=0.3)
    return model


def qwen3() -> nn.Module:
    """Norms of each head too."""
    return Qwen3ForCausalLM(Qwen3Config(**SIZES))


def rms_norm(x, weight, epsilon, offset, casting, in_place):
    """What Liger's function gives, by its documentation."""
    assert not in_place
    normed = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + epsilon)
    return ((offset + weight.float()) * normed).to(x.dtype)


def _gained(u, h):
    return u if h is None else u + h * u


RIGHT = {
    "rms_norm.LigerRMSNormFunction": rms_norm,
    "gated.silu_gated": lambda gate, up, h=None, k=None: F.silu(_gained(gate, h)) * _gained(up, k),
    "gated.gelu_gated": lambda gate, up, h=None, k=None: F.gelu(_gained(gate, h), approximate="tanh") * _gained(up, k),
}


def fails(*args):
    raise RuntimeError("a compiler is missing")


WRONG = {
    "of another size": {name: (lambda *args, own=own: 1.1 * own(*args)) for name, own in RIGHT.items()},
    "of another shape": {name: (lambda *args, own=own: own(*args)[..., :1]) for name, own in RIGHT.items()},
    "no number": {name: (lambda *args, own=own: own(*args) * float("nan")) for name, own in RIGHT.items()},
    "that fail": dict.fromkeys(RIGHT, fails),
}


@pytest.fixture
def liger(monkeypatch):
    """A function that puts stand-ins for functions in; it returns a list of the names that are called."""

    def put(functions) -> list[str]:
        called = []
        for path, function in functions.items():
            file, name = path.split(".")

            def apply(*args, label=name if file == "gated" else file, function=function):
                called.append(label)
                return function(*args)

            if file == "gated":
                monkeypatch.setattr(gated, name, apply)
                continue
            module = types.ModuleType(f"liger_kernel.ops.{file}")
            setattr(module, name, type(name, (), {"apply": staticmethod(apply)}))
            monkeypatch.setitem(sys.modules, module.__name__, module)
        for name in ("liger_kernel", "liger_kernel.ops"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        return called

    monkeypatch.setattr(decoders, "available", lambda device: True)
    monkeypatch.setattr(decoders, "has_triton", lambda x: not torch.compiler.is_compiling())
    monkeypatch.setattr(passes, "merged_weights", lambda layers: ())
    return put


def kinds(handle) -> list[str]:
    """Which kinds of kernels there are for a model."""
    return [type(value.__self__).__name__ for _, _, value in decoders.kernels(handle)]


@pytest.mark.parametrize("large", [policy.LARGE, 0])
@pytest.mark.parametrize(
    ("build", "norms", "file"), [(llama, 5, "silu_gated"), (gemma, 5, "gelu_gated"), (qwen3, 9, "silu_gated")]
)
def test_right_kernels_are_used(build, norms, file, large, liger, monkeypatch):
    monkeypatch.setattr(policy, "LARGE", large)
    called = liger(RIGHT)
    handle = adapted(build, LoRA(r=4, target="all-linear"), low=False)
    found = kinds(handle)
    assert {kind: found.count(kind) for kind in found} == {"_Norm": norms, "_Gated": 2, "_Rotary": 1}
    loss, gradients = loss_and_gradients(handle, False)
    called.clear()
    same, own = loss_and_gradients(handle, True)
    assert same == pytest.approx(loss, rel=1e-5) and distance(own, gradients) < 1e-4
    forward = called if large else called[: norms + 2]  # behind them: computed again
    assert forward.count("rms_norm") == norms and forward.count(file) == 2
    called.clear()
    with accelerated(handle):
        handle.model(input_ids=IDS)
    assert len(called) == norms + 2  # what fits has been found once


@pytest.mark.parametrize("name", WRONG)
def test_wrong_ones_are_not(name, liger):
    called = liger(WRONG[name])
    handle = adapted(llama, LoRA(r=4, target="all-linear"), low=False)
    assert kinds(handle) == ["_Rotary"]  # which is no kernel of Liger's
    called.clear()
    loss, gradients = loss_and_gradients(handle, False)
    same, own = loss_and_gradients(handle, True)
    assert same == pytest.approx(loss, rel=1e-6) and distance(own, gradients) < 1e-4 and not called


def test_a_model_without_such_parts_has_none(liger):
    liger(RIGHT)
    assert not kinds(adapted(roberta, LoRA(r=4), low=False))


def test_trying_leaves_random_numbers_and_modules_as_they_were(liger):
    liger(RIGHT)
    handle = adapted(llama, LoRA(r=4, target="all-linear"), low=False)
    before, state = dict(handle.model.state_dict()), torch.get_rng_state()
    modules = {id(module): dict(vars(module)) for module in handle.model.modules()}
    with torch.inference_mode():
        assert decoders.kernels(handle)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in handle.model.state_dict().items())
    assert all(vars(module).keys() == modules[id(module)].keys() for module in handle.model.modules())


def test_others_replacements_stay(liger):
    """A norm that somebody has given another forward function keeps it."""
    called = liger(RIGHT)
    handle = adapted(llama, LoRA(r=4, target="all-linear"), low=False)
    norm = handle.model.model.norm
    norm.forward = lambda x: 3 * type(norm).forward(norm, x)
    loss, _ = loss_and_gradients(handle, False)
    assert "_Norm" in kinds(handle)
    called.clear()
    assert loss_and_gradients(handle, True)[0] == pytest.approx(loss, rel=1e-5)
    assert called.count("rms_norm") == 4


def test_after_a_pass_the_model_is_as_before(liger):
    liger(RIGHT)
    handle, own = adapted(llama, DoRA(r=4, target="all-linear"), low=False), modeling_llama.apply_rotary_pos_emb
    with accelerated(handle):
        assert modeling_llama.apply_rotary_pos_emb is not own and "forward" in vars(handle.model.model.norm)
    assert modeling_llama.apply_rotary_pos_emb is own and "forward" not in vars(handle.model.model.norm)


class Mlp(nn.Module):
    """A gated layer with dropout, which is not seen while it is off."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("gate_proj", "up_proj", "down_proj"):
            self.add_module(name, nn.Linear(8, 8))
        self.act_fn, self.drop, self.p = nn.SiLU(), nn.Dropout(0.5), 0.0

    def forward(self, x, scale=1.0):
        y = self.act_fn(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(F.dropout(self.drop(y), self.p, self.training)) * scale


def test_layers_that_drop_are_left_alone(liger):
    liger(RIGHT)
    layer, cpu = Mlp().eval(), torch.device("cpu")
    assert decoders._gated(layer, cpu) is None
    del layer.drop
    layer.drop = lambda y: y
    assert decoders._gated(layer, cpu) is not None
    layer.p = 0.5
    assert decoders._gated(layer, cpu) is None


def test_calls_with_more_than_the_input_are_the_layers_own(liger):
    """And with the input by its name they are as without."""
    called = liger(RIGHT)
    layer, x = Mlp(), torch.randn(3, 8)
    del layer.drop
    layer.drop = lambda y: y
    gated = decoders._Gated(layer, decoders._gated(layer, torch.device("cpu")))
    called.clear()
    torch.testing.assert_close(gated.forward(x, 2.0), layer(x, 2.0))
    torch.testing.assert_close(gated.forward(x, scale=2.0), layer(x, 2.0))
    assert not called
    torch.testing.assert_close(gated.forward(x=x), layer(x))
    assert called == ["silu_gated"]
    norm = llama().model.norm
    own = decoders._Norm(norm, decoders._norm(norm, torch.device("cpu")))
    x = torch.randn(3, 32)
    called.clear()
    torch.testing.assert_close(own.forward(hidden_states=x), norm(x))
    assert called == ["rms_norm"]
    torch.testing.assert_close(own.forward(x.double()), norm(x.double()))
    assert called == ["rms_norm"]


def test_without_liger_norms_are_the_models_own(liger):
    liger({name: function for name, function in RIGHT.items() if name.startswith("gated")})
    assert set(kinds(adapted(llama, LoRA(r=4, target="all-linear"), low=False))) == {"_Gated", "_Rotary"}


def test_rotary_positions_of_another_kind_are_the_familys_own(liger):
    """Of a part of each head, along another dimension, in another precision."""
    calls = []

    def own(q, k, cos, sin, unsqueeze_dim=1):
        calls.append(1)
        return q, k

    q, k = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8)
    cos = torch.randn(1, 5, 8)
    rotary = decoders._Rotary(own)
    rotary.turned(q, k, cos, cos)
    rotary.turned(q, k, cos, cos, unsqueeze_dim=1)
    assert not calls
    for more in ({"unsqueeze_dim": 2}, {"cos": cos[..., :4], "sin": cos[..., :4]}, {"cos": cos.double()}):
        rotary.turned(**({"q": q, "k": k, "cos": cos, "sin": cos} | more))
    assert len(calls) == 3
    rotary.turned(q, k, cos, cos, 2)
    assert len(calls) == 4


def test_without_liger_or_a_gpu_there_are_none():
    handle = adapted(llama, LoRA(r=4, target="all-linear"), low=False)
    assert not decoders.available(torch.device("cpu")) and not decoders.kernels(handle)
