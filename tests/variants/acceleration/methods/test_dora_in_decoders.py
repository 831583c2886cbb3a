"""What DoRA's gains keep in decoders: nothing that LoRA does not keep, and the gradients are the plain pass's.

Triton's programs are interpreted on a CPU, where all tensors count as large here.
"""

from __future__ import annotations

import importlib.util
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.passes import IDS, adapted, distance, llama, loss_and_gradients
from variants import DoRA, LoRA
from variants.acceleration import accelerated, decoders, passes
from variants.acceleration.basics import policy
from variants.acceleration.products import elementwise, postponed, updated_maps
from variants.layer import full_precision

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton"),
    pytest.mark.filterwarnings("ignore:overflow encountered in exp"),
]
ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
GATES = {"q": "again", "k": "again", "v": "undone", "o": "again", "down": "again"}
"""Maps whose gain a program of its own multiplies by; gate's and up's are left to the activation."""


@pytest.fixture(autouse=True)
def large(monkeypatch):
    """All tensors count as large, and programs as fit."""
    monkeypatch.setattr(policy, "LARGE", 0)
    monkeypatch.setattr(passes, "merged_weights", lambda layers: ())
    if not ON_GPU:
        monkeypatch.setattr(decoders, "available", lambda device: True)
        for file in (decoders, elementwise):
            monkeypatch.setattr(file, "has_triton", lambda x: True)


@pytest.fixture
def ways(monkeypatch) -> list[str]:
    """How each gain of a program of its own gets the outputs before it."""
    from variants.acceleration.programs import gain

    found, own = [], gain.gained

    def gained(u, h, again, undo):
        found.append("again" if again else "undone" if undo else "kept")
        return own(u, h, again, undo)

    monkeypatch.setattr(gain, "gained", gained)
    return found


def dora(low: bool = False, build=llama):
    """Away from the start, with gains of 0, below 0 and large ones."""
    handle = adapted(build, DoRA(r=4, target="all-linear"), low=low, device=DEVICE)
    with torch.no_grad():
        for layer in handle.layers:
            layer.magnitude[:3] *= torch.tensor([0.0, -1.0, 3.0], device=DEVICE)
    return handle


def same(handle) -> None:
    loss, expected = loss_and_gradients(handle, False)
    again, found = loss_and_gradients(handle, True)
    assert again == pytest.approx(loss, rel=1e-5) and distance(found, expected) < 1e-4


def test_gradients(ways):
    with full_precision(torch.ones(1, device=DEVICE)):
        same(dora())
    assert ways == 2 * list(GATES.values())


def test_long_maps_keep_their_outputs(ways, monkeypatch):
    monkeypatch.setattr(updated_maps, "LONGEST", 32)
    with full_precision(torch.ones(1, device=DEVICE)):
        same(dora())
    assert ways == 2 * ["again", "again", "undone", "again", "kept"]


@pytest.mark.parametrize("behind", [False, True])
def test_gradient_checkpointing(behind, ways):
    """What is kept in a block lives for that block alone: no product is computed a third time for it."""
    with full_precision(torch.ones(1, device=DEVICE)):
        handle = dora()
        loss, expected = loss_and_gradients(handle, False)
        handle.model.train().gradient_checkpointing_enable({"use_reentrant": False})
        for p in handle.trained().values():
            p.grad = None
        with accelerated(handle):
            again = handle.model(input_ids=IDS.to(DEVICE), use_cache=False).logits.float().square().mean()
            if not behind:
                again.backward()
        if behind:
            again.backward()
    assert again.item() == pytest.approx(loss, rel=1e-5)
    assert distance({n: p.grad for n, p in handle.trained().items()}, expected) < 1e-4
    assert ways == 4 * ["kept", "kept", "undone", "kept", "kept"]


def test_reentrant_checkpointing():
    with full_precision(torch.ones(1, device=DEVICE)):
        handle = dora()
        loss, expected = loss_and_gradients(handle, False)
        handle.model.train().gradient_checkpointing_enable({"use_reentrant": True})
        handle.model.enable_input_require_grads()
        again, found = loss_and_gradients(handle, True)
    assert again == pytest.approx(loss, rel=1e-5) and distance(found, expected) < 1e-4


def test_bf16_is_no_further_off_than_plain_passes():
    handle, exact = dora(low=True), dora()
    exact.model.load_state_dict(handle.model.state_dict())
    _, expected = loss_and_gradients(exact, False)
    off = [distance(loss_and_gradients(handle, fast)[1], expected) for fast in (False, True)]
    assert off[1] < 2 * off[0] < 0.4


def test_inputs_are_computed_again_once(monkeypatch):
    """For the gradients of the gain and of A together."""
    from variants.acceleration.programs import gated

    handle, calls, own = dora(), [], gated.silu_gated
    monkeypatch.setattr(gated, "silu_gated", lambda *args: calls.append(1) or own(*args))
    assert decoders.kernels(handle)
    calls.clear()
    loss_and_gradients(handle, True)
    assert len(calls) == 2 * 2


def test_outputs_that_somebody_looks_at_have_their_gain():
    """As a hook on a gate does: its gain is not left to the activation."""
    handle, seen = dora(), []
    gate = handle.model.model.layers[0].mlp.gate_proj
    gate.register_forward_hook(lambda module, args, y: seen.append(y.detach().clone()))
    with full_precision(torch.ones(1, device=DEVICE)):
        same(handle)
    torch.testing.assert_close(*seen)


def test_no_gain_is_lost_with_its_tensor(monkeypatch):
    """Where somebody puts another tensor in its place, unseen, the maps compute once more and do all themselves."""
    handle, calls = dora(), []
    handle.model.model.layers[0].mlp.gate_proj.register_forward_hook(
        lambda module, args, y: calls.append(1) or y.clone()
    )
    monkeypatch.setattr(decoders, "_is_watched", lambda module: False)
    with full_precision(torch.ones(1, device=DEVICE)):
        same(handle)
    assert len(calls) == 3


def test_notes_end_with_the_pass():
    u, h = torch.randn(2, 3), torch.randn(3)
    with postponed.postponing() as left:
        assert postponed.postponed(u, h) is u and len(left) == 1 and postponed.is_postponing()
    assert postponed.gain_of(u) is h and not postponed.is_postponing()
    postponed.forget()
    assert postponed.gain_of(u) is None


def kept(handle, fast: bool = True) -> int:
    """Bytes that are saved for the backward pass after a forward pass, parameters apart."""
    known = {t.untyped_storage().data_ptr() for t in (*handle.model.parameters(), *handle.model.buffers())}
    saved: list[weakref.ref] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(weakref.ref(tensor))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), accelerated(handle) if fast else nullcontext():
        out = handle.model(input_ids=IDS.repeat(1, 20).to(DEVICE), use_cache=False).logits  # noqa: F841 (holds them)
        memory = [tensor.untyped_storage() for ref in saved if (tensor := ref()) is not None]
    return sum({one.data_ptr(): one.nbytes() for one in memory if one.data_ptr() not in known}.values())


def square_llama() -> nn.Module:
    """As many keys as queries: attention keeps no copies of them."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=100, intermediate_size=48, **sizes))


def test_as_little_is_kept_as_of_lora():
    """Less than one map's outputs more, where a plain pass has several of each block."""
    lora = adapted(square_llama, LoRA(r=4, target="all-linear"), low=True, device=DEVICE)
    output = IDS.numel() * 20 * 32 * 2
    more = [kept(dora(True, square_llama), fast) - kept(lora, fast) for fast in (False, True)]
    assert more[1] < output // 2 < 5 * output < more[0]


def wide_llama() -> nn.Module:
    sizes = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8}
    return LlamaForCausalLM(LlamaConfig(vocab_size=128, intermediate_size=1408, **sizes)).bfloat16()


@pytest.mark.gpu("memory of its own")
def test_memory_of_a_step_is_about_that_of_lora():
    """What a forward pass leaves behind, and the peak with the backward pass; outputs of all maps are 350 MB."""
    held, peaks = [], []
    ids = torch.randint(128, (4, 1024), device="cuda")
    for variant in (LoRA(r=8, target="all-linear"), DoRA(r=8, target="all-linear")):
        handle = adapted(wide_llama, variant, low=True, device="cuda")
        for _ in range(2):  # what is found out once is there afterwards
            for p in handle.trained().values():
                p.grad = None
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            with accelerated(handle):
                loss = handle.model(input_ids=ids, use_cache=False).logits.float().square().mean()
                now = torch.cuda.memory_allocated() - before
                loss.backward()
            peak = torch.cuda.max_memory_allocated() - before
            del loss
        held.append(now)
        peaks.append(peak)
        del handle
    outputs = 8 * ids.numel() * (5 * 512 + 2 * 1408) * 2
    assert held[1] - held[0] < outputs / 20, (held, outputs)
    assert peaks[1] - peaks[0] < outputs / 10, (peaks, outputs)
