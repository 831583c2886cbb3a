"""Norms of layers against the update written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modules.training.loggers.layer_figures import by_layer, layer_figures, low_rank_norm
from tests.support.models import MODELS
from tests.support.outside_variants import IA3, InputScale, PiSSA
from variants import AdaLoRA, DoRA, LoRA, VeRA, attach
from variants.layer import LowRank
from variants.registry import resolve

VARIANTS = [LoRA(r=2), DoRA(r=2), VeRA(r=8), AdaLoRA(init_r=3, target_r=2), IA3(), InputScale(), PiSSA(r=2)]


@pytest.mark.parametrize("inner", [None, "vector", "matrix"])
@pytest.mark.parametrize("outer", [False, True])
def test_a_norm_by_gram_matrices_is_the_norm_of_the_product(inner, outer):
    draw = torch.Generator().manual_seed(0)
    A, B = torch.randn(3, 7, generator=draw), torch.randn(5, 3, generator=draw)
    middle = {None: None, "vector": torch.randn(3, generator=draw), "matrix": torch.randn(3, 3, generator=draw)}[inner]
    update = LowRank(A, B, -0.5, inner=middle, outer=torch.randn(5, generator=draw) if outer else None)
    torch.testing.assert_close(low_rank_norm(update), update.delta_weight().norm())


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: type(variant).__name__)
def test_update_norms_are_those_of_the_merged_weights(variant):
    """Of low-rank products, of a weight that is written out, of a scaled output, of one that was taken off the base."""
    model = MODELS["roberta"]()
    before = {path: m.weight.detach().clone() for path, m in model.named_modules() if isinstance(m, nn.Linear)}
    adapted = attach(model, variant, seed=1)
    with torch.no_grad():
        for parameter in adapted.trained().values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    found, missing = layer_figures(adapted, {}, {})
    layers = [layer.site for layer in adapted.layers]
    adapted.merge()
    assert not missing and set(found) == {"update_norm"} and len(found["update_norm"]) == len(layers) + 1
    for site, value in zip(layers, [v for k, v in found["update_norm"].items() if k != "all"], strict=True):
        W = before[site.path]
        after = model.get_submodule(site.path).weight.detach()
        assert value == pytest.approx(float((after - W).norm() / W.norm()), rel=1e-3)


def test_gradient_norms_are_of_each_layer_and_of_all():
    model = MODELS["roberta"]()
    adapted = attach(model, resolve("lora")(r=2), seed=1)
    gradients = {name: torch.full_like(p, 2.0) for name, p in adapted.trained().items()}
    found, _ = layer_figures(adapted, gradients, {})
    first = adapted.layers[0]
    own = sum(p.numel() for p in first.parameters())
    assert next(iter(found["grad_norm"].values())) == pytest.approx(2 * own**0.5)
    assert found["grad_norm"]["all"] == pytest.approx(2 * sum(g.numel() for g in gradients.values()) ** 0.5)
    assert set(found["grad_norm"]) == set(found["update_norm"])


def test_places_are_blocks_and_roles_also_of_a_fused_map():
    adapted = attach(MODELS["gpt2"](), resolve("lora")(r=2, target="q,v,up"), seed=0)
    found, _ = layer_figures(adapted, {}, {})
    assert {"0/q", "0/v", "0/up"} <= set(found["update_norm"])


def test_what_changes_no_weight_has_no_update_norm():
    adapted = attach(MODELS["roberta"](), resolve("adapter_h")(), seed=0)
    found, missing = layer_figures(adapted, {}, {})
    assert found == {} and not missing


def test_figures_of_single_layers_are_told_from_those_of_the_whole():
    adapted = attach(MODELS["roberta"](), resolve("adalora")(init_r=3, target_r=2), seed=0)
    whole, layers = by_layer(adapted.metrics() | {"group/word": 1.0}, adapted)
    assert set(whole) == {"mean_rank", "budget", "group/word"}
    assert sum(layers["rank"].values()) == whole["budget"] and "0/q" in layers["rank"]
