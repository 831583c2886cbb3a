"""Updates that are made for all layers at once, against those that each layer makes for itself."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.passes import IDS, adapted, distance, gpt2, roberta
from variants import HRA, DeLoRA, FourierFT, LoHa, LoKr, LoRA, RandLoRA, VBLoRA
from variants.acceleration import accelerated
from variants.acceleration.basics.policy import for_graph
from variants.acceleration.products import alike
from variants.adapters.adapted_model import AdaptedModel
from variants.methods.delora import DeLoRALayer

MADE = {
    "delora": DeLoRA(r=3),
    "fourierft": FourierFT(n=40),
    "hra": HRA(pairs=2),
    "loha": LoHa(r=3),
    "lokr": LoKr(r=3),
    "randlora": RandLoRA(r=3),
    "vblora": VBLoRA(r=2, vectors=6, length=8),
}


class Operators(TorchDispatchMode):
    """Counts them."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """One more."""
        self.count += 1
        return function(*args, **(kwargs or {}))


def overridden(handle: AdaptedModel) -> set[str]:
    return {name for layer in handle.layers for name in ("low_rank", "delta_weight") if name in vars(layer)}


def gradients(handle: AdaptedModel, graph: bool) -> tuple[dict[str, Tensor], set[str], int]:
    """(the gradients of a pass, what was made for all layers at once, operators of the pass)."""
    with for_graph(graph), accelerated(handle), Operators() as operators:
        made = overridden(handle)
        handle.model(input_ids=IDS).logits.float().square().mean().backward()
    found = {name: p.grad.clone() for name, p in handle.trained().items() if p.grad is not None}
    for parameter in handle.trained().values():
        parameter.grad = None
    return found, made, operators.count


def alone(handle: AdaptedModel, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Its gradients where each layer makes its own update."""
    with monkeypatch.context() as patch:
        patch.setattr("variants.acceleration.passes.made_together", lambda handle: ())
        return gradients(handle, True)[0]


@pytest.mark.parametrize("low", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("build", [roberta, gpt2])
@pytest.mark.parametrize("name", MADE)
def test_gradients_are_those_of_updates_made_one_by_one(name: str, build, low: bool, monkeypatch) -> None:
    handle = adapted(build, MADE[name], low)
    own = alone(handle, monkeypatch)
    found, made, _ = gradients(handle, True)
    assert made == {"low_rank" if handle.layers[0].declares_low_rank else "delta_weight"}
    assert distance(found, own) < (0.02 if low else 1e-6) and not overridden(handle)


@pytest.mark.parametrize("name", MADE)
def test_as_many_operators_as_for_one_layer(name: str, monkeypatch) -> None:
    """What a layer more costs is less than it is where each makes its own."""

    def deep() -> nn.Module:
        model = roberta()
        model.roberta.encoder.layer.extend(type(model.roberta.encoder.layer[0])(model.config) for _ in range(2))
        return model

    counts = {}
    for together in (True, False):
        with monkeypatch.context() as patch:
            if not together:
                patch.setattr("variants.acceleration.passes.made_together", lambda handle: ())
            handles = [adapted(build, MADE[name], False) for build in (roberta, deep)]
            shallow, more = (gradients(handle, True)[2] for handle in handles)
            counts[together] = more - shallow
    assert counts[True] < counts[False] - 8, counts


def test_only_for_a_graph() -> None:
    """Elsewhere an update may never be asked for, as in a pass through some of the layers."""
    assert not gradients(adapted(roberta, MADE["delora"], False), False)[1]


def test_more_than_fits_is_made_where_it_is_used(monkeypatch) -> None:
    handle = adapted(roberta, MADE["loha"], False)
    own, made, _ = gradients(handle, True)
    monkeypatch.setattr(alike, "MOST", 4 * 32 * 32 * 3)
    found, none, _ = gradients(handle, True)
    assert made and not none and distance(found, own) < 1e-6


@pytest.mark.parametrize("reentrant", [False, True])
def test_under_gradient_checkpointing(reentrant: bool) -> None:
    handle = adapted(roberta, MADE["vblora"], False)
    expected, *_ = gradients(handle, True)
    handle.model.train()
    for module in handle.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    handle.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    handle.model.enable_input_require_grads()
    found, made, _ = gradients(handle, True)
    assert not made and distance(found, expected) < 1e-6


class Keeps(DeLoRALayer):
    """Leaves something for later."""

    def low_rank(self):
        """And says so nowhere."""
        self.kept = self.A.square().sum()
        return super().low_rank()


class Draws(DeLoRALayer):
    """Another factor each time."""

    def low_rank(self):
        """Noise of 0 size, so that results compare."""
        return super().low_rank()._replace(B=self.B + 0 * torch.randn(()))


class Asks(DeLoRALayer):
    """Goes by a value."""

    def low_rank(self):
        """Either way."""
        update = super().low_rank()
        return update if self.B.sum() > 1e9 else update._replace(B=2 * self.B)


class Hides(DeLoRALayer):
    """Tensors where no one looks for them, others in each layer."""

    def __init__(self, site, config, rng) -> None:
        super().__init__(site, config, rng)
        self.hidden = [torch.ones(2000)]  # whose text is that of the ends
        self.hidden[0][1000] += torch.rand((), generator=rng)

    def low_rank(self):
        """With it."""
        return super().low_rank()._replace(B=self.B * self.hidden[0][1000])


class Counts(DeLoRALayer):
    """A number, another one in each layer."""

    def __init__(self, site, config, rng) -> None:
        super().__init__(site, config, rng)
        self.number = float(torch.rand(1, generator=rng)) + 1

    def low_rank(self):
        """With it."""
        return super().low_rank()._replace(B=self.B * self.number)


@pytest.mark.parametrize("layer_class", [Keeps, Draws, Asks, Hides, Counts])
def test_what_is_left_alone(layer_class: type, monkeypatch) -> None:
    """Layers that keep, draw or ask something, or that differ in more than their tensors; twice, as in a capture."""

    @dataclass
    class Own(DeLoRA):
        layer = layer_class

    handle = adapted(roberta, Own(r=3), False)
    own = alone(handle, monkeypatch)
    for _ in range(2):
        found, made, _ = gradients(handle, True)
        assert not made and distance(found, own) < 1e-6
    assert layer_class is not Keeps or all(layer.kept.grad_fn is not None for layer in handle.layers)


def test_factors_that_are_a_layers_own_tensors_are_left_alone() -> None:
    assert not gradients(adapted(roberta, LoRA(r=3), False), True)[1]


def test_layers_of_other_sizes_and_ranks_are_groups_of_their_own() -> None:
    handle = adapted(roberta, DeLoRA(r=2, target="all-linear", per_layer={"*.layer.0.*": {"r": 3}}), False)
    groups = alike._groups(handle.layers)
    assert sorted({(len(g), g[0].A.shape) for g in groups}) and all(len({x.A.shape for x in g}) == 1 for g in groups)
    found, made, _ = gradients(handle, True)
    expected, none, _ = gradients(handle, False)
    assert made and not none and distance(found, expected) < 1e-5
