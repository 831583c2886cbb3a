"""A weighted sum of adapters as one: its update is the sum of theirs, whatever their ranks, alphas and targets."""

import pytest
import torch

from tests.support.tiny import Off, gpt2, logits, roberta, train
from variants import AdaLoRA, DoRA, LoRA, VariantError, VeRA, attach
from variants.adapters.adapted_model import AdaptedModel
from variants.formats.native import load, save_adapter
from variants.variant import Variant


def two(model, first: Variant, second: Variant) -> AdaptedModel:
    adapted = attach(model, first, name="a")
    train(adapted.trained(), 1)
    adapted.add("b", second)
    train(adapted.trained(), 2)
    return adapted


def weights(adapted: AdaptedModel, name: str | None) -> dict[str, torch.Tensor]:
    """The base's weights with an adapter merged into them, and its head."""
    if name is None:
        adapted.deactivate()
    else:
        adapted.switch(name)
        adapted.merge()
    found = {k: p.detach().clone() for k, p in adapted.model.named_parameters() if ".adapter." not in k}
    adapted.unmerge()
    return found


def expected_sum(adapted: AdaptedModel, a: float, b: float) -> dict[str, torch.Tensor]:
    base, first, second = (weights(adapted, name) for name in (None, "a", "b"))
    share = a / (a + b)
    return {
        key: share * first[key] + (1 - share) * second[key]
        if key in adapted.head
        else base[key] + a * (first[key] - base[key]) + b * (second[key] - base[key])
        for key in base
    }


@pytest.mark.parametrize("a, b", [(0.7, 0.3), (1.0, 1.0), (1.5, -0.5)])
@pytest.mark.parametrize(
    "build, first, second",
    [
        (roberta, LoRA(r=4, alpha=6), LoRA(r=4, alpha=6)),
        (roberta, LoRA(r=2, alpha=6), LoRA(r=3, alpha=1, rslora=True, target="all-linear")),
        (roberta, LoRA(r=3, layers="0"), LoRA(r=2, target="v,o", per_layer={"*.1.*": {"r": 4, "alpha": 1.0}})),
        (gpt2, LoRA(r=2, alpha=6), LoRA(r=3, alpha=5, target="k,v,up")),
        (gpt2, LoRA(r=2, alpha=6), LoRA(r=3, target="c_attn")),  # slices beside the whole fused map
        (gpt2, LoRA(r=2, alpha=6), LoRA(r=3, target="c_attn[8:24]")),  # slices that overlap in part
        (roberta, LoRA(r=12), LoRA(r=12)),  # more than the matrices' own rank
    ],
)
def test_lora_is_summed_exactly(build, first, second, a, b):
    adapted = two(build(), first, second)
    expected = expected_sum(adapted, a, b)
    adapted.switch("a")
    assert adapted.combine({"a": a, "b": b}, "ab") == 0.0
    assert adapted.active == "ab"
    found = weights(adapted, "ab")
    assert max((found[key] - expected[key]).abs().max() for key in expected) < 5e-6
    assert isinstance(adapted.variant, LoRA)


def test_ranks_add_up_only_where_both_are():
    adapted = two(roberta(), LoRA(r=2), LoRA(r=3, target="v,o"))
    adapted.combine({"a": 0.5, "b": 0.5}, "ab")
    ranks = {path.rpartition("1.")[2]: len(layer.lora_A) for path, layer in adapted.adapter.layers.items()}
    assert (ranks["attention.self.query"], ranks["attention.output.dense"], ranks["attention.self.value"]) == (2, 3, 5)


def test_the_result_is_an_adapter_like_any_other(tmp_path):
    adapted = two(gpt2(), LoRA(r=2, alpha=6), LoRA(r=3, target="k,v,up"))
    adapted.combine({"a": 0.7, "b": 0.3}, "ab")
    expected = logits(adapted.model)
    fresh = load(gpt2(), save_adapter(adapted, tmp_path), strict=True)
    assert torch.equal(logits(fresh.model), expected)
    adapted.delete("a")
    adapted.delete("b")
    assert torch.equal(logits(adapted.model), expected)


def test_truncation_is_the_best_of_its_rank_and_its_error_is_told():
    """Eckart and Young: the singular values that were cut off are the error."""
    adapted = two(roberta(), LoRA(r=4, alpha=6), LoRA(r=3))
    base, whole = weights(adapted, None), expected_sum(adapted, 0.7, 0.3)
    error = adapted.combine({"a": 0.7, "b": 0.3}, "ab", rank=2)
    found = weights(adapted, "ab")
    cut = norm = 0.0
    for key in base:
        if key.endswith(("query.weight", "value.weight")):
            values = torch.linalg.svdvals((whole[key] - base[key]).double())
            assert torch.linalg.matrix_rank(found[key] - base[key], rtol=1e-4) == 2
            assert (found[key] - whole[key]).norm() == pytest.approx(values[2:].norm().item(), rel=1e-3)
            cut, norm = cut + values[2:].square().sum().item(), norm + values.square().sum().item()
    assert error == pytest.approx((cut / norm) ** 0.5, rel=1e-3) and 0.05 < error < 1
    assert adapted.combine({"a": 0.7, "b": 0.3}, "exact", rank=7) < 1e-5


@pytest.mark.parametrize("build", [roberta, gpt2])
@pytest.mark.parametrize(
    "second",
    [Off(r=2), DoRA(r=2), VeRA(r=3, target="v,up"), AdaLoRA(init_r=2, target_r=1)],
    ids=lambda v: type(v).__name__,
)
def test_a_variant_without_factors_is_approximated(build, second):
    """Here by the full rank of the matrices, so that nothing is lost."""
    adapted = two(build(), LoRA(r=2, alpha=6), second)
    expected = expected_sum(adapted, 0.7, 0.3)
    assert adapted.combine({"a": 0.7, "b": 0.3}, "ab", rank=16) < 1e-5
    found = weights(adapted, "ab")
    assert max((found[key] - expected[key]).abs().max() for key in expected) < 5e-6


class Everything(LoRA):
    def trainable(self, model):
        return ["transformer.wpe.weight"]


class Crooked(LoRA):
    mergeable = False


@pytest.mark.parametrize(
    "second, arguments, message",
    [
        (LoRA(), {"weights": {"a": 1, "x": 1}}, "no adapter 'x'; there are a, b"),
        (LoRA(), {"weights": {"a": 1}, "name": "b"}, "there is an adapter 'b' already"),
        (LoRA(), {"weights": {"a": 1, "b": -1}}, "the weights sum to 0"),
        (LoRA(), {"weights": {"a": 1}, "rank": 0}, "rank must be at least 1"),
        (Everything(), {"weights": {"a": 1, "b": 1}}, "'b' cannot be combined: it trains transformer.wpe.weight"),
        (Off(), {"weights": {"a": 1, "b": 1}}, "'b' is .*, not a sum of LoRA's factors: give rank="),
        (Crooked(), {"weights": {"a": 1, "b": 1}}, "'b' cannot be combined: .* is no linear map of its input"),
    ],
)
def test_what_has_no_sum_is_said_and_nothing_changes(second, arguments, message):
    adapted = two(gpt2(), LoRA(), second)
    before = logits(adapted.model)
    with pytest.raises(VariantError, match=message):
        adapted.combine(**{"name": "ab"} | arguments)
    assert adapted.active == "b" and list(adapted.adapters) == ["a", "b"]
    assert torch.equal(logits(adapted.model), before)
