"""On a CPU LoRA's maps multiply by the updated weight: the same outputs and gradients, and only where that may be."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.support.passes import adapted, distance, gpt2, loss_and_gradients, roberta
from variants import DoRA, LoRA, attach
from variants.acceleration import accelerated
from variants.acceleration.products import merged_weight
from variants.methods.lora import LoRALayer


def used(handle) -> int:
    """How many maps do in a prepared pass."""
    with accelerated(handle):
        forwards = [vars(layer.site.module).get("forward") for layer in handle.layers]
        return sum(isinstance(getattr(forward, "__self__", None), merged_weight._MergedMap) for forward in forwards)


@pytest.mark.parametrize("target", ["q,v", "all-linear"])
def test_outputs_and_gradients(target):
    handle = adapted(roberta, LoRA(r=4, alpha=3, target=target), low=False)
    assert used(handle) == len(handle.layers)
    (loss, gradients), (same, found) = loss_and_gradients(handle, False), loss_and_gradients(handle, True)
    assert same == pytest.approx(loss, rel=1e-6) and distance(found, gradients) < 1e-5


def test_gradcheck():
    made = attach(nn.Sequential(nn.Linear(5, 7)).double(), LoRA(r=2, alpha=3, target="0"), head=[])
    (layer,) = made.layers
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    layer.lora_B.data.normal_()

    def function(x, A, B):
        with torch.no_grad():
            whole = torch.addmm(layer.site.weight(), B, A, alpha=1.5)
        return merged_weight._MergedLinear.apply(x, A, B, 1.5, whole, layer.site.bias())

    expected = made.model(x)
    A, B = layer.lora_A, layer.lora_B
    assert torch.allclose(function(x, A, B), expected, atol=1e-12)
    pulled = torch.randn_like(expected)
    pairs = [torch.autograd.grad((y * pulled).sum(), [x, A, B]) for y in (function(x, A, B), made.model(x))]
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*pairs, strict=True))


def test_fewer_multiplications():
    """Forward and to the input one product each; the thin ones are those of the gradients of A and B alone."""
    torch.manual_seed(0)
    n, d, r = 64, 32, 4
    handle = attach(nn.Sequential(nn.Linear(d, d)), LoRA(r=r, target="0"), head=[])
    x = torch.randn(n, d, requires_grad=True)
    with FlopCounterMode(display=False) as counter, accelerated(handle):
        handle.model(x).sum().backward()
    assert counter.get_total_flops() == 2 * (2 * n * d * d + d * d * r + 4 * n * d * r)


def test_where_it_may_not_be():
    """Dropout acts on the adapter's input alone, bf16 would lose the update, slices and norms need the plain output."""
    dropping = adapted(roberta, LoRA(r=4, dropout=0.5), low=False)
    assert used(dropping) == len(dropping.layers)  # in evaluation
    dropping.model.train()
    assert used(dropping) == 0
    assert used(adapted(roberta, LoRA(r=4), low=True)) == 0
    assert used(adapted(roberta, DoRA(r=4), low=False)) == 0
    assert used(adapted(gpt2, LoRA(r=4), low=False)) == 0


def test_a_method_with_a_forward_of_its_own_keeps_it():
    class Doubled(LoRALayer):
        def forward(self, x, y):
            return super().forward(x, y) * 2

    class Variant(LoRA):
        layer = Doubled

    handle = adapted(roberta, Variant(r=4), low=False)
    assert used(handle) == 0
    (loss, gradients), (same, found) = loss_and_gradients(handle, False), loss_and_gradients(handle, True)
    assert same == pytest.approx(loss, rel=1e-6) and distance(found, gradients) < 1e-4


def test_disabled_and_merged_adapters_stay_so():
    handle = adapted(roberta, LoRA(r=4), low=False)
    loss, _ = loss_and_gradients(handle, False)
    with handle.disabled():
        assert loss_and_gradients(handle, True)[0] == loss_and_gradients(handle, False)[0] != loss
    handle.merge()
    assert loss_and_gradients(handle, True)[0] == pytest.approx(loss, rel=1e-5)
    handle.unmerge()
    assert all(layer.site.module.adapter.enabled for layer in handle.layers)
    assert "forward" not in handle.layers[0].site.module.__dict__


def test_under_autocast_the_adapter_is_added():
    """The map must not be summed in bf16: the hook's way is taken, with the numbers of an unprepared pass."""
    handle = adapted(roberta, LoRA(r=4), low=False)
    losses = []
    for prepared in (False, True):
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(loss_and_gradients(handle, prepared)[0])
    assert losses[0] == losses[1]
