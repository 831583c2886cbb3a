"""Merging asks the modules themselves: where outputs would change, nothing is merged."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.support.odd_linears import IN, Float8, Holder, Int8, Masked, Packed, Scaled, Squashed, TakesMore, wrapped
from variants import AdaLoRA, DoRA, LoRA, VariantError, VeRA, attach
from variants.acceleration.passes import accelerated

METHODS = {
    "lora": lambda target: LoRA(r=2, target=target),
    "dora": lambda target: DoRA(r=2, target=target),
    "vera": lambda target: VeRA(r=3, target=target),
    "adalora": lambda target: AdaLoRA(init_r=2, target_r=1, target=target),
}
X = torch.randn(5, IN, generator=torch.Generator().manual_seed(0))


def weight_norm(*sizes: int) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(*sizes))


def old_weight_norm(*sizes: int) -> nn.Module:
    """The weight is computed anew by a hook at every call."""
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(nn.Linear(*sizes))


@torch.no_grad()
def trained(model: nn.Module, variant, head=()):
    adapted = attach(model, variant, head=list(head))
    for tensor in adapted.trained().values():
        tensor.add_(0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(2)).to(tensor))
    return adapted


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [Scaled, Masked, Squashed, weight_norm, old_weight_norm])
@torch.no_grad()
def test_a_module_that_reads_its_weight_in_another_way_is_not_merged(make, method) -> None:
    """peft #761: the map before it is as it was, too."""
    adapted = trained(Holder(make), METHODS[method]("plain,odd"))
    before, kept = adapted.model(X), weights(adapted.model)
    with pytest.raises(VariantError, match=r"cannot merge into odd: .* reads its weight in a way of its own; nothing"):
        adapted.merge()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in adapted.model.state_dict().items())
    assert torch.equal(adapted.model(X), before), "and the adapter goes on"


@torch.no_grad()
def test_a_module_that_cannot_be_asked_is_not_merged() -> None:
    adapted = trained(Holder(TakesMore), LoRA(r=2, target="odd"))
    with pytest.raises(VariantError, match="cannot merge into odd: it cannot be called alone .*TypeError"):
        adapted.merge()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@torch.no_grad()
def test_rounding_is_no_difference(dtype, scale) -> None:
    """Small and large updates in every precision, and one that takes the base away; training modes come back."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 80, bias=False), nn.Dropout(0.5), nn.Linear(80, 64)).to(dtype)
    adapted = trained(model, LoRA(r=8, alpha=8 * scale, dropout=0.5, target="0,2"), [])
    model.train()
    model[2].adapter.eval()
    adapted.merge()
    assert model[0].adapter.training and not model[2].adapter.training and model[2].training
    adapted.unmerge()
    own = adapted.layers[0]
    u, s, v = torch.linalg.svd(model[0].weight.double(), full_matrices=False)
    own.lora_A.copy_(v[:8])
    own.lora_B.copy_(-(u * s)[:, :8] / own.scaling)
    adapted.merge()


@torch.no_grad()
def test_merging_under_autocast_is_in_full_precision() -> None:
    adapted = trained(nn.Sequential(nn.Linear(16, 16)), LoRA(r=2, target="0"))
    with torch.autocast("cpu", torch.bfloat16):
        assert adapted.merge() < 1e-5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@torch.no_grad()
def test_what_is_not_finite_is_not_merged(value) -> None:
    """All or nothing: the second of two maps has one such value."""
    adapted = trained(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), LoRA(r=2, target="0,1"))
    adapted.layers[1].lora_B[0, 0] = value
    kept = weights(adapted.model)
    with pytest.raises(VariantError, match="cannot merge into 1: its adapter has values that are not finite"):
        adapted.merge()
    assert all(torch.equal(a, b) for a, b in zip(weights(adapted.model)["0.weight"], kept["0.weight"], strict=True))
    adapted.layers[1].lora_B[0, 0] = 1.0
    adapted.model[1].weight[0, 0] = value
    with pytest.raises(VariantError, match="cannot merge into 1: its base weight has values that are not finite"):
        adapted.merge()


@torch.no_grad()
def test_what_does_not_fit_the_weights_precision_is_not_merged() -> None:
    """65504 is the largest number of float16."""
    adapted = trained(nn.Sequential(nn.Linear(4, 4)).half(), LoRA(r=2, target="0"))
    adapted.layers[0].lora_A.fill_(1.0)
    adapted.layers[0].lora_B.fill_(1e5)
    with pytest.raises(VariantError, match="cannot merge into 0"):
        adapted.merge()
    assert adapted.model[0].weight.isfinite().all()


# ---- quantised weights -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [Int8, Float8, wrapped])
def test_quantised_weights_take_updates_beside_them(make, method) -> None:
    """peft #2321, litgpt #513: right or refused in words, in a plain and in an accelerated pass; never merged."""
    base = Holder(make)(X)
    if method == "dora":
        with pytest.raises(VariantError, match=r"odd \(.*\) keeps its weight quantised, as .*: lora, adalora and vera"):
            attach(Holder(make), METHODS[method]("odd"), head=[])
        return
    adapted = attach(Holder(make), METHODS[method]("odd"), head=[])
    assert torch.equal(adapted.model(X), base)
    trained_like = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in adapted.trained().values():
            tensor.copy_(torch.randn(tensor.shape, generator=trained_like))
    (layer,) = adapted.layers
    expected = base + adapted.model.plain(X) @ layer.low_rank().delta_weight().T
    assert torch.allclose(adapted.model(X), expected, atol=1e-5)
    with accelerated(adapted):
        assert torch.allclose(adapted.model(X), expected, atol=1e-5)
    adapted.model(X).sum().backward()
    assert all(tensor.grad is not None for tensor in adapted.trained().values())
    with pytest.raises(VariantError, match="odd .* keeps its weight quantised, .* no merging"):
        adapted.merge()
    assert torch.allclose(adapted.model(X), expected, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", ["odd", "*", "plain,odd"])
def test_packed_weights_are_refused_in_words(method, target) -> None:
    """artidoro/qlora #28: the shape of the bytes is not the map's, so the rank is none of the problem."""
    with pytest.raises(VariantError, match=r"odd \(Packed\) keeps its weight quantised, as uint8 \[24, 1\]: .* 4 bits"):
        attach(Holder(Packed), METHODS[method](target), head=[])


# ---- shared weights --------------------------------------------------------------------------------------------


class Shared(nn.Module):
    """``a`` and ``b`` are one module; ``c`` and ``d`` are two with one weight, ``e`` and ``f`` with one memory."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.c, self.d, self.e, self.f = (nn.Linear(4, 4) for _ in range(5))
        self.b = self.a
        self.d.weight = self.c.weight
        self.f.weight.data = self.e.weight.data

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


@torch.no_grad()
def test_one_module_under_two_names_is_merged_once() -> None:
    """adapters PR 488; peft's tied layers."""
    adapted = trained(Shared(), LoRA(r=2, target="a"))
    before = adapted.model(X[:, :4])
    adapted.merge()
    assert torch.allclose(adapted.model(X[:, :4]), before, atol=1e-5)


@pytest.mark.parametrize(("name", "other"), [("c", "d"), ("e", "f")])
def test_a_weight_of_two_modules_is_not_merged(name, other) -> None:
    adapted = trained(Shared(), LoRA(r=2, target=name))
    before = copy.deepcopy(adapted.model.state_dict())
    with pytest.raises(VariantError, match=f"cannot merge into {name}.weight: the same tensor is {other}.weight"):
        adapted.merge()
    assert all(torch.equal(tensor, before[key]) for key, tensor in adapted.model.state_dict().items())


class Counting(nn.Linear):
    """What it has seen is counted in buffers, in evaluation too, as observers of quantisation do."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.largest = torch.maximum(self.largest, x.detach().abs().max())
        return super().forward(x)


def test_the_probe_leaves_no_trace_in_the_modules() -> None:
    """It went through the observers of a model in quantisation-aware training, whose ranges were other ones then."""
    adapted = trained(Holder(Counting), METHODS["lora"]("plain,odd"))
    adapted.model(X)
    before, random = weights(adapted.model), torch.get_rng_state()
    adapted.model.train().plain.eval()
    modes = [module.training for module in adapted.model.modules()]
    adapted.merge()
    adapted.unmerge()
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapted.model.state_dict().items())
    assert modes == [module.training for module in adapted.model.modules()]
    assert torch.equal(random, torch.get_rng_state())


@torch.no_grad()
def test_a_refused_merge_leaves_a_spectral_norm_as_it_was() -> None:
    """To read its weight in training is to step its power iteration: the base was another one behind the refusal."""
    adapted = trained(
        Holder(lambda *sizes: nn.utils.parametrizations.spectral_norm(nn.Linear(*sizes))), METHODS["lora"]("odd")
    )
    adapted.model.train()
    before = weights(adapted.model)
    with pytest.raises(VariantError, match="cannot merge into odd"):
        adapted.merge()
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapted.model.state_dict().items())


def test_a_map_that_was_replaced_behind_attaching_is_not_merged_into() -> None:
    """As an output map by resize_token_embeddings(): merging said that it was done, and the adapter was gone."""
    adapted = trained(Holder(nn.Linear), LoRA(r=2, target="plain,odd"))
    adapted.model.odd = nn.Linear(IN, adapted.model.odd.out_features)
    with pytest.raises(VariantError, match="cannot merge into odd: another module is in its place"):
        adapted.merge()
    assert adapted.uncalled()[-1:] == ["odd"]
