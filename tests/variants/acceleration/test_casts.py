"""A prepared pass computes what the layers compute by themselves, and low-rank products reach the output unharmed."""

from __future__ import annotations

import gc
import weakref
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from modules.acceleration.cuda_graphs import GraphedStep
from tests.support.passes import IDS, adapted, distance, gpt2, loss_and_gradients, roberta
from tests.support.small import small
from variants import AdaLoRA, DoRA, LoRA, VariantError, VeRA, names
from variants.acceleration import accelerated
from variants.acceleration.basics.policy import for_graph
from variants.acceleration.products import low_rank
from variants.acceleration.products.low_rank import Product, add_products
from variants.adapters import hooks
from variants.adapters.stack import Stack

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(autouse=True, params=[True, False], ids=["in a graph", "eager"])
def computed(request):
    """As for a CUDA graph, and as in an eager step."""
    with for_graph() if request.param else nullcontext():
        yield request.param


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("build", [roberta, gpt2])
@pytest.mark.parametrize("name", names())
def test_prepared_is_the_plain_pass(name, build, device):
    """In fp32 to the last digits; over a bf16 base within bf16's rounding of what the fp32 pass gives."""
    try:
        handle = adapted(build, small(name), False, device)
    except VariantError as refusal:
        pytest.skip(f"{name} does not fit this small model: {refusal}")
    if not handle.trained():
        pytest.skip(f"{name} trains nothing here")
    loss, gradients = loss_and_gradients(handle, prepared=False)
    same, found = loss_and_gradients(handle, prepared=True)
    # sums of fp32 in another order: how far they part depends on the processor, by 1.2e-6 on one
    assert abs(same - loss) <= 1e-5 * abs(loss) and distance(found, gradients) < 1e-4
    if list(handle.variant.trainable(handle.model)):
        return  # it trains base weights, which stay in fp32
    low = adapted(build, small(name), True, device)
    loss, gradients = loss_and_gradients(low, prepared=False)
    same, found = loss_and_gradients(low, prepared=True)
    assert abs(same - loss) <= 0.02 * abs(loss) and distance(found, gradients) < 0.1
    assert all(g.dtype == torch.float32 for g in found.values())


def test_lora_in_bf16_is_what_casts_at_each_use_give():
    """The copies are the values that autocast would make: nothing differs, not by a bit, down to where the gradients
    of one input are added up, which a prepared pass rounds once a product and autograd once more a sum."""
    handle = adapted(roberta, LoRA(r=4), low=True)
    (loss, gradients), (same, found) = loss_and_gradients(handle, False), loss_and_gradients(handle, True)
    assert same == loss and distance(found, gradients) < 0.02
    assert all(torch.equal(found[k], g) for k, g in gradients.items() if "layer.0" not in k)
    assert any("layer.1" in k for k in gradients)


@pytest.mark.parametrize(("variant", "spared"), [(LoRA(r=4), True), (VeRA(r=4), True), (DoRA(r=4), False)])
def test_autocast_is_spared_where_all_is_rounded(variant, spared, monkeypatch):
    handle, entered = adapted(roberta, variant, low=True), []
    spy = lambda kind, dtype, own=hooks.autocast: entered.append(kind) or own(kind, dtype)  # noqa: E731
    monkeypatch.setattr(hooks, "autocast", spy)
    with accelerated(handle):
        handle.model(input_ids=IDS)
    assert bool(entered) != spared
    handle.model(input_ids=IDS)
    assert entered


@pytest.mark.parametrize("stacked", [False, True])
def test_a_handle_is_not_kept_alive(stacked):
    handle = adapted(roberta, LoRA(r=4), low=False)
    handle = Stack(handle, ["default"]) if stacked else handle
    loss_and_gradients(handle, True)
    known = weakref.ref(handle)
    del handle
    gc.collect()
    assert known() is None


def test_nothing_of_it_stays():
    handle = adapted(roberta, DoRA(r=4), low=True)
    layer = handle.layers[0]
    with pytest.raises(RuntimeError, match="on the way"), accelerated(handle):
        assert layer.lora_A.dtype == torch.bfloat16 and "gain" in layer.__dict__
        raise RuntimeError("on the way")
    assert layer.lora_A.dtype == torch.float32 and "gain" not in layer.__dict__
    assert layer.lora_A is dict(layer.named_parameters())["lora_A"]


def test_dora_gains_of_all_layers_at_once():
    """Sites of one shape are one batch; each gain is m/‖W₀ + sBA‖ - 1 of its own, also where ranks differ."""
    variant = DoRA(r=4, target="q,v,down", per_layer={"*.1.*": {"r": 2, "alpha": 3.0}})
    handle = adapted(roberta, variant, low=False)
    expected = []
    for layer in handle.layers:
        whole = layer.site.weight().double() + layer.scaling * layer.lora_B.double() @ layer.lora_A.double()
        expected.append(layer.magnitude.double() / whole.norm(dim=1) - 1)
    with accelerated(handle):
        for layer, gain in zip(handle.layers, expected, strict=True):
            assert (layer.gain() - gain).abs().max() < 1e-5


@pytest.mark.parametrize(
    "variant", [LoRA(r=4), AdaLoRA(init_r=4, target_r=2), DoRA(r=4), VeRA(r=8)], ids=lambda v: v.name
)
def test_stacked(variant):
    """A prepared pass through a stack, in fp32 and over a bf16 base."""
    for low, limit in ((False, 1e-4), (True, 0.1)):
        handle = adapted(roberta, variant, low)
        handle.add("second", variant, seed=1)
        stack = Stack(handle, ["default", "second"])
        with torch.no_grad():
            for parameter in stack.trained().values():
                parameter.add_(0.05 * torch.randn_like(parameter))
        (loss, gradients), (same, found) = loss_and_gradients(stack, False), loss_and_gradients(stack, True)
        assert abs(same - loss) <= limit * abs(loss) and distance(found, gradients) < limit


@pytest.mark.gpu("a branch of a CUDA graph")
@pytest.mark.parametrize("variant", [LoRA(r=4), AdaLoRA(init_r=12, target_r=8), DoRA(r=8)], ids=lambda v: v.name)
@pytest.mark.parametrize("build", [roberta, gpt2])
def test_gradients_computed_beside_the_rest(build, variant, monkeypatch):
    """Replayed many times over changing batches, they are the gradients of the eager pass."""
    handle = adapted(build, variant, True, "cuda")

    def compute(batch):
        with accelerated(handle):
            return (handle.model(input_ids=batch["ids"]).logits.float().square().mean(),)

    parameters = list(handle.trained().values())
    on_side_stream, branches = low_rank.on_side_stream, []
    monkeypatch.setattr(low_rank, "on_side_stream", lambda *args: branches.append(len(args)) or on_side_stream(*args))
    captured, eager = GraphedStep(compute, parameters, patience=0), GraphedStep(compute, parameters, patience=10**9)
    for number in range(20):
        ids = torch.randint(5, 90, (64, 100), generator=torch.Generator().manual_seed(number))
        found = []
        for step in (captured, eager):
            step.zero()
            step({"ids": ids})
            found.append({str(k): p.grad.clone() for k, p in enumerate(parameters) if p.grad.norm() > 0})
        assert distance(*found) < 1e-2
    assert captured.failure is None and branches


# ---- products -----------------------------------------------------------------------------------------------------
def test_products_and_their_gradients():
    """Two spans of a fused output, one with a factor that is frozen: against autograd's own of y + s·z Fᵀ."""
    torch.manual_seed(0)
    x, W = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(12, 5, dtype=torch.float64, requires_grad=True)
    pairs = [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 2), (4, 2), (2, 3, 1), (6, 1))]

    def written(W, a, b, c, d):
        products = [Product(a, b, 0.5), Product(c, d)]
        return add_products(F.linear(x, W), [(0, 4), (6, 12)], products)

    def plain(W, a, b, c, d):
        y = F.linear(x, W)
        return torch.cat([y[..., :4] + 0.5 * a @ b.T, y[..., 4:6], y[..., 6:] + c @ d.T], dim=-1)

    assert torch.allclose(written(W, *pairs), plain(W, *pairs), atol=1e-12)
    assert torch.autograd.gradcheck(written, (W, *pairs))
    pairs[1].requires_grad_(False)
    for function in (written, plain):
        W.grad = pairs[0].grad = pairs[3].grad = None
        function(W, *pairs).square().sum().backward()
        gradients = [W.grad, pairs[0].grad, pairs[3].grad]
        if function is written:
            found = gradients
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(found, gradients, strict=True))


def test_a_slice_in_between_is_left_alone():
    """GPT-2's keys stay those of the base, and q and v those of y + s·B A x, though written where c_attn put them."""
    handle = adapted(gpt2, LoRA(r=4, alpha=8, target="q,v"), low=False)
    block = handle.model.transformer.h[0].attn.c_attn
    x = torch.randn(2, 5, 32)
    q, v = handle.layers[:2]
    found = block(x)
    with handle.disabled():
        plain = block(x)
    added = [layer.scaling * x @ layer.lora_A.T @ layer.lora_B.T for layer in (q, v)]
    expected = torch.cat([plain[..., :32] + added[0], plain[..., 32:64], plain[..., 64:] + added[1]], dim=-1)
    assert torch.allclose(found, expected, atol=1e-5) and torch.equal(found[..., 32:64], plain[..., 32:64])
