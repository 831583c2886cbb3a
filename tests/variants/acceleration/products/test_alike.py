"""Updates that are made for all layers at once, against those that each layer makes for itself."""

from __future__ import annotations

import pytest
from torch import nn

from tests.support.alike import alone, gradients, overridden
from tests.support.passes import adapted, distance, gpt2, roberta
from variants import HRA, DeLoRA, FourierFT, LoHa, LoKr, LoRA, RandLoRA, VBLoRA
from variants.acceleration.products import alike

MADE = {
    "delora": DeLoRA(r=3),
    "fourierft": FourierFT(n=40),
    "hra": HRA(pairs=2),
    "loha": LoHa(r=3),
    "lokr": LoKr(r=3),
    "randlora": RandLoRA(r=3),
    "vblora": VBLoRA(r=2, vectors=6, length=8),
}


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


def test_factors_that_are_a_layers_own_tensors_are_left_alone() -> None:
    assert not gradients(adapted(roberta, LoRA(r=3), False), True)[1]


def test_layers_of_other_sizes_and_ranks_are_groups_of_their_own() -> None:
    handle = adapted(roberta, DeLoRA(r=2, target="all-linear", per_layer={"*.layer.0.*": {"r": 3}}), False)
    groups = alike._groups(handle.layers)
    assert sorted({(len(g), g[0].A.shape) for g in groups}) and all(len({x.A.shape for x in g}) == 1 for g in groups)
    found, made, _ = gradients(handle, True)
    expected, none, _ = gradients(handle, False)
    assert made and not none and distance(found, expected) < 1e-5
