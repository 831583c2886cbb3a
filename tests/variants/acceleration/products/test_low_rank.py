"""An update of high rank is multiplied out where that takes fewer multiplications, and computes the same."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.support.models import MODELS, inputs
from variants import LoRA, LoRAXS, VeRA, attach
from variants.acceleration import accelerated
from variants.acceleration.basics.policy import for_graph
from variants.acceleration.products import elementwise, low_rank
from variants.acceleration.products.low_rank import added, multiplied_out
from variants.acceleration.products.side_stream import track
from variants.adapters.stack import Stack

pytestmark = pytest.mark.acceleration
HIGH = {"vera": VeRA(r=200), "lora": LoRA(r=16, alpha=4), "lora_xs": LoRAXS(r=16)}


def handle_of(variant, size: int):
    model = MODELS["gpt2"]().eval()
    adapted = attach(model, variant, 0, name="0")
    for seed in range(1, size):
        adapted.add(str(seed), variant, seed)
    rng = torch.Generator().manual_seed(3)
    for adapter in adapted.adapters.values():
        for layer in adapter.layers.values():
            for parameter in layer.parameters():
                parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    return adapted if size == 1 else Stack(adapted, list(adapted.adapters))


def passed(handle, batch, train: bool = False) -> tuple[torch.Tensor, list[torch.Tensor]]:
    handle.model.train(train)
    torch.manual_seed(0)
    logits = handle.model(**batch).logits
    parameters = list(handle.trained().values())
    return logits, list(torch.autograd.grad(logits.square().mean(), parameters))


def counted(handle, batch) -> int:
    with FlopCounterMode(display=False) as counter:
        passed(handle, batch)
    return counter.get_total_flops()


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", HIGH)
def test_values_and_gradients_are_those_of_the_factors_in_fewer_operations(name, size):
    handle, batch = handle_of(HIGH[name], size), inputs("gpt2", batch=16 * size)
    layer = handle.layers[0]
    plain, expected = passed(handle, batch)
    before = counted(handle, batch)
    with accelerated(handle):
        fast, found = passed(handle, batch)
        assert counted(handle, batch) < before
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    x = torch.zeros(64, layer.site.in_features)
    assert multiplied_out(layer, layer.low_rank(), x) and not multiplied_out(layer, layer.low_rank(), x[:1])


def test_dropout_is_that_of_the_layer():
    variant = LoRA(r=16, alpha=4, dropout=0.5)
    handle, batch = handle_of(variant, 1), inputs("gpt2", batch=16)
    plain, expected = passed(handle, batch, train=True)
    with accelerated(handle):
        fast, found = passed(handle, batch, train=True)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(plain, passed(handle, batch)[0], atol=1e-3), "it drops"


@pytest.mark.parametrize("variant", [LoRA(r=4), LoRAXS(r=7), VeRA(r=8)], ids=lambda variant: variant.name)
def test_factors_stay_where_they_take_fewer(variant):
    layer = handle_of(variant, 1).layers[0]
    assert not multiplied_out(layer, layer.low_rank(), torch.zeros(10_000, layer.site.in_features))


@pytest.mark.parametrize("name", ["vera", "lora"])
def test_no_gradient_of_a_factor_is_put_off_where_another_call_multiplies_it_out(name, monkeypatch):
    """DeBERTa calls queries and keys with many rows, and with few: what the side stream makes later is not there yet
    when the two gradients are added up."""
    layer, uses = handle_of(HIGH[name], 1).layers[0], []
    monkeypatch.setattr(low_rank, "on_side_stream", lambda count, compute, *_: uses.append(count) or compute())
    monkeypatch.setattr(elementwise, "on_side_stream", lambda count, compute, *_: uses.append(count) or compute())
    update = layer.low_rank()
    for factor in (update.A, update.B, update.inner, update.outer):
        if factor is not None:
            track(factor)
    with for_graph():
        outputs = []
        for rows in (64, 2):
            x = torch.randn(rows, layer.site.in_features)
            assert multiplied_out(layer, update, x) == (rows == 64)
            outputs.append(added(layer, update, x, torch.zeros(rows, layer.site.out_features)).sum())
        sum(outputs).backward()
    counts = [count[0] for count in uses if count is not None]
    assert counts and 1 not in counts
