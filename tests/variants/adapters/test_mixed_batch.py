"""A batch whose rows use different adapters: every row as if it were alone with its own."""

import pytest
import torch
from torch import nn

from tests.support.models import MODELS, inputs
from tests.support.tiny import Off, gpt2, logits, roberta, train
from variants import AdaLoRA, DoRA, Full, Head, LoRA, VariantError, VeRA, attach
from variants.adapters.adapted_model import AdaptedModel
from variants.layer import AdapterLayer
from variants.variant import BaseVariant, Variant


class Scale(AdapterLayer):
    """Scales the input and shifts the output: a layer with ``pre``, whose base map sees another input."""

    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.scale = nn.Parameter(torch.ones(site.in_features))
        self.shift = nn.Parameter(torch.zeros(site.out_features))

    def pre(self, x):
        return x * self.scale

    def forward(self, x, y):
        return y + self.shift


class Scaled(Variant):
    layer = Scale


class Biases(BaseVariant):
    """Trains every bias of the backbone in place, as BitFit does."""

    def trainable(self, model):
        return [name for name, _ in model.named_parameters() if name.endswith("bias")]


def four(model: nn.Module) -> AdaptedModel:
    """Adapters of several kinds and targets on one base, each with a head of its own."""
    adapted = attach(model, LoRA(r=4, alpha=6), name="qv")
    train(adapted.trained(), 1)
    adapted.add("all", LoRA(r=2, alpha=3, target="all-linear"))
    train(adapted.trained(), 2)
    adapted.add("pre", Scaled(target="o"))
    train(adapted.trained(), 3)
    adapted.add("biases", Biases())
    train(adapted.trained(), 4)
    return adapted


def alone(adapted: AdaptedModel, name: str | None, row: int) -> torch.Tensor:
    adapted.deactivate() if name is None else adapted.switch(name)
    return logits(adapted.model, row)[0]


@pytest.mark.parametrize("build", [roberta, gpt2])
def test_every_method_shares_a_batch_with_every_other(build):
    adapted = attach(build(), DoRA(r=4), name="dora")
    train(adapted.trained(), 1)
    for seed, variant in enumerate((VeRA(r=4, target="v,up"), AdaLoRA(init_r=4, target_r=2), Head()), start=2):
        adapted.add(variant.name, variant)
        train(adapted.trained(), seed)
    rows = ["dora", "vera", "adalora", "head"]
    expected = torch.stack([alone(adapted, name, i) for i, name in enumerate(rows)])
    with adapted.mixed(rows) as model:
        assert (logits(model) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("build", [roberta, gpt2])
@pytest.mark.parametrize(
    "rows", [["qv", "all", "qv", None], ["pre", None, "biases", "qv"], ["biases"] * 2 + ["pre", "all"], [None] * 4]
)
def test_each_row_is_computed_by_its_own_adapter_and_head(build, rows):
    adapted = four(build())
    expected = torch.stack([alone(adapted, name, i) for i, name in enumerate(rows)])
    assert (expected - torch.stack([alone(adapted, None, i) for i in range(4)])).abs().amax(1).gt(0.05).tolist() == [
        name is not None for name in rows
    ]
    with adapted.mixed(rows) as model:
        assert (logits(model) - expected).abs().max() < 1e-6


def test_afterwards_the_model_is_as_before():
    adapted = four(roberta())
    adapted.switch("all")
    before = logits(adapted.model)
    names = [name for name, _ in adapted.model.named_modules()]
    with pytest.raises(RuntimeError), adapted.mixed(["qv", "biases", None, "pre"]):
        raise RuntimeError
    assert adapted.active == "all"
    assert torch.equal(logits(adapted.model), before)
    assert [name for name, _ in adapted.model.named_modules()] == names
    assert not [m for m in adapted.model.modules() if "forward" in vars(m)]


def test_a_variant_that_is_taken_off_the_base_weight_leaves_other_rows_alone():
    adapted = attach(gpt2(), LoRA(), name="plain")
    train(adapted.trained(), 1)
    adapted.add("off", Off(r=2, target="q,up"))
    train(adapted.trained(), 2)
    rows = ["off", "plain", None, "off"]
    expected = torch.stack([alone(adapted, name, i) for i, name in enumerate(rows)])
    with adapted.mixed(rows) as model:
        assert (logits(model) - expected).abs().max() < 1e-6


def test_all_parameters_of_a_model_can_differ_by_row():
    """In ViT, a module that owns a parameter (the class token) has children that own some too."""
    model, images = MODELS["vit"](), inputs("vit", batch=3)["pixel_values"]
    adapted = attach(model, Full(), name="full")
    train(adapted.trained(), 1)
    with torch.no_grad():
        full = model.eval()(images).logits
        adapted.deactivate()
        base = model(images).logits
        with adapted.mixed(["full", None, "full"]):
            found = model(images).logits
    assert (found - torch.stack([full[0], base[1], full[2]])).abs().max() < 1e-6


def test_a_site_inside_a_module_that_differs_by_row():
    class Gain(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain, self.map = nn.Parameter(torch.ones(())), nn.Linear(6, 6)

        def forward(self, x):
            return self.gain * self.map(x)

    class Both(LoRA):
        def trainable(self, model):
            return ["0.gain"]

    model, x = nn.Sequential(Gain(), Gain()), torch.randn(3, 6)
    adapted = attach(model, Both(r=2, target="map"), name="a", head=[])
    train(adapted.trained(), 1)
    adapted.add("b", Both(r=3, target="map"))
    train(adapted.trained(), 2)
    with torch.no_grad():
        alone = {"b": model(x)}
        adapted.switch("a")
        alone["a"] = model(x)
        adapted.deactivate()
        alone[None] = model(x)
        with adapted.mixed(["b", None, "a"]):
            found = model(x)
    assert (found - torch.stack([alone["b"][0], alone[None][1], alone["a"][2]])).abs().max() < 1e-6


def test_dropout_of_an_adapter_that_was_not_active_follows_the_model():
    adapted = attach(roberta(), LoRA(dropout=0.9), name="a")  # built, and left, in training mode
    adapted.model.train()
    train(adapted.trained(), 1)
    adapted.add("b", LoRA())
    adapted.model.eval()
    expected = alone(adapted, "a", 0)
    adapted.model.train()
    adapted.switch("a")
    adapted.switch("b")
    adapted.model.eval()
    with adapted.mixed(["a", "b", "b", None]) as model:
        assert (logits(model)[0] - expected).abs().max() < 1e-6


def test_several_rows_for_each_example_follow_the_example():
    """As in beam search, and in models that flatten examples and positions before a linear map."""
    adapted = four(roberta())
    with adapted.mixed(["qv", None]) as model:
        found = logits(model)
    with adapted.mixed(["qv", "qv", None, None]) as model:
        assert torch.equal(found, logits(model))


def test_what_cannot_be_shared_out_is_said():
    adapted = four(roberta())
    with pytest.raises(VariantError, match="no adapter 'x'"), adapted.mixed(["x"] * 4):
        pass
    with pytest.raises(VariantError, match=r"query gets 4 rows where 3"), adapted.mixed(["qv", "all", None]) as model:
        logits(model)

    class Deep(Variant):
        layer = Scale

        def attach(self, model):
            pass

    adapted.add("deep", Deep(target="o"))
    with pytest.raises(VariantError, match="'deep' cannot share a batch"), adapted.mixed(["deep"] * 4):
        pass
