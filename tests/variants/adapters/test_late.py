"""Base weights that come behind attaching: a fresh adapter follows them, one that has learnt keeps what it has."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from tests.support.small_module import X, out, tiny, train
from variants import AdaLoRA, AdapterLayer, DoRA, LoRA, Variant, VariantError, VeRA, attach
from variants.acceleration import accelerated
from variants.acceleration.basics.policy import for_graph
from variants.adapters.adapted_model import AdaptedModel
from variants.contract.models import Tiny


class NormedLayer(AdapterLayer):
    """Another layer whose start depends on W: y + (g/g₀ - 1) W x, g₀ the size of W, kept at the start."""

    def __init__(self, site, config, rng):
        super().__init__(site, config)
        size = site.weight().detach().norm()
        self.g = nn.Parameter(size.clone())

    def delta_weight(self):
        W = self.site.weight()
        return (self.g / W.norm() - 1) * W


@dataclass
class Normed(Variant):
    layer = NormedLayer


VARIANTS = [LoRA(r=4), DoRA(r=4, target="all-linear"), VeRA(r=4), AdaLoRA(init_r=4, target_r=2), Normed()]


def other(kind: str = "plain") -> Tiny:
    """A model of the same shape with other weights."""
    model = tiny(kind)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.mul_(1.1 + 0.1 * (number % 3)).add_(0.01)
    return model


def load(model: nn.Module) -> None:
    model.load_state_dict(other().state_dict(), strict=False)


def load_other_tensors(model: nn.Module) -> None:
    model.load_state_dict(other().state_dict(), strict=False, assign=True)


@torch.no_grad()
def write(model: nn.Module) -> None:
    for name, parameter in other().named_parameters():
        model.get_parameter(name).copy_(parameter)


def replace(model: nn.Module) -> None:
    for name, parameter in other().named_parameters():
        path, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(path), leaf, nn.Parameter(parameter.detach(), requires_grad=False))


ARRIVALS = [load, load_other_tensors, write, replace]


def accelerated_out(adapted: AdaptedModel) -> Tensor:
    with ExitStack() as block:
        block.enter_context(accelerated(adapted))
        block.enter_context(for_graph())
        return out(adapted.model)


@pytest.mark.parametrize("arrive", ARRIVALS)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: type(v).__name__)
def test_a_fresh_adapter_is_the_identity_on_late_weights(variant, arrive: Callable) -> None:
    """torchtune #2129, peft PR 1961: DoRA's magnitudes of weights that had not been loaded yet."""
    expected = out(other())
    uses: dict[str, Callable[[AdaptedModel], Tensor]] = {
        "a pass": lambda adapted: out(adapted.model),
        "an accelerated pass": accelerated_out,
        "merged": lambda adapted: (adapted.merge(), out(adapted.model))[1],
        "saved": lambda adapted: _again(adapted),
    }
    for use, compute in uses.items():
        for seen in (False, True):
            adapted = attach(tiny(), variant)
            if seen:
                accelerated_out(adapted)
            arrive(adapted.model)
            assert torch.allclose(compute(adapted), expected, atol=1e-4), (use, seen)


def _again(adapted: AdaptedModel) -> Tensor:
    """What an adapter computes that has been saved and loaded."""
    loaded = attach(other(), adapted.variant)
    loaded.load_state_dict(adapted.state_dict())
    return out(loaded.model)


@pytest.mark.parametrize("arrive", ARRIVALS)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: type(v).__name__)
def test_what_has_been_learnt_is_kept(variant, arrive: Callable) -> None:
    def trained() -> AdaptedModel:
        adapted = attach(tiny(), variant)
        out(adapted.model)
        train(adapted)
        return adapted

    def by_data() -> AdaptedModel:  # by code that leaves no trace at the parameter
        adapted = attach(tiny(), variant)
        for tensor, value in zip(adapted.trained().values(), trained().trained().values(), strict=True):
            tensor.data.copy_(value.detach())
        return adapted

    def loaded() -> AdaptedModel:
        adapted = attach(tiny(), variant)
        adapted.load_state_dict(trained().state_dict())
        return adapted

    for make in (trained, by_data, loaded):
        adapted = make()
        expected = {name: tensor.clone() for name, tensor in adapted.adapter.tensors().items()}
        accelerated_out(adapted)
        arrive(adapted.model)
        passed = accelerated_out(adapted)
        assert all(torch.equal(t, expected[name]) for name, t in adapted.adapter.tensors().items()), make.__name__
        assert torch.allclose(passed, out(adapted.model), atol=1e-4), "nothing that is kept of the base is old"


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: type(v).__name__)
def test_models_that_get_their_memory_later(variant) -> None:
    """pytorch #132721, peft PR 1797: attached on the meta device, then given memory and weights."""
    file = attach(other(), variant)
    train(file)

    def attached(name: str = "default") -> AdaptedModel:
        with torch.device("meta"):
            model = Tiny().eval()
        return attach(model, variant, name=name)

    def filled(adapted: AdaptedModel) -> AdaptedModel:
        adapted.model.to_empty(device="cpu")
        load(adapted.model)
        return adapted

    def assigned(adapted: AdaptedModel) -> AdaptedModel:
        load_other_tensors(adapted.model)
        return adapted

    fresh = attach(other(), variant)
    for give in (filled, assigned):
        adapted = give(attached())
        assert torch.allclose(out(adapted.model), out(other()), atol=1e-5), "fresh"
        expected = fresh.adapter.tensors()
        assert all(torch.allclose(t, expected[key], atol=1e-6) for key, t in adapted.adapter.tensors().items())
        adapted = give(attached())
        adapted.load_state_dict(file.state_dict())
        assert torch.allclose(accelerated_out(adapted), out(file.model), atol=1e-5), "loaded"
        adapted = attached("first")
        adapted.add("second", variant, 1)
        give(adapted)
        adapted.switch("first")
        assert torch.allclose(out(adapted.model), out(other()), atol=1e-5), "it was aside"
    with pytest.raises(VariantError, match="the model is on the meta device: give it memory"):
        attached().load_state_dict(file.state_dict())
    whole = attached()
    whole.model.to_empty(device="cpu").load_state_dict(file.model.state_dict())
    assert torch.allclose(out(whole.model), out(file.model), atol=1e-5), "adapter and base from one checkpoint"


@pytest.mark.parametrize("how", [copy.deepcopy, lambda handle: pickle.loads(pickle.dumps(handle))])
def test_copies_follow_too(how) -> None:
    twin = how(attach(tiny(), DoRA(r=4)))
    load(twin.model)
    assert torch.allclose(out(twin.model), out(other()), atol=1e-5)
    adapted = attach(tiny(), Normed())
    train(adapted)
    twin, expected = how(adapted), [layer.g.item() for layer in adapted.layers]
    load(twin.model)
    out(twin.model)
    assert [layer.g.item() for layer in twin.layers] == expected, "what a copy has learnt is kept"


@pytest.mark.parametrize("variant", [DoRA(r=4), LoRA(r=4)])
def test_to_follow_costs_nothing_behind_the_first_step(variant) -> None:
    adapted = attach(tiny(), variant)
    before = [layer.site.weight().clone() for layer in adapted.layers]
    optimizer = torch.optim.AdamW(adapted.param_groups(1e-2))
    for _ in range(2):
        adapted.model(X).square().sum().backward()
        optimizer.step()
    adapted.model(X)
    assert not any(layer.site.module._forward_pre_hooks for layer in adapted.layers)
    assert all(torch.equal(layer.site.weight(), w) for layer, w in zip(adapted.layers, before, strict=True))


def test_moved_and_cast() -> None:
    """A fresh adapter is left as it is where only the place of the weights changes."""
    adapted = attach(tiny(), DoRA(r=4))
    start = {key: tensor.clone() for key, tensor in adapted.adapter.tensors().items()}
    adapted.model.double().float()
    accelerated_out(adapted)
    assert all(torch.equal(tensor, start[key]) for key, tensor in adapted.adapter.tensors().items())
    adapted.model.bfloat16()
    assert torch.allclose(accelerated_out(adapted).float(), out(tiny().bfloat16()).float(), atol=0.05)
