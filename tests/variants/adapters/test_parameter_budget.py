"""--budget: the size whose number of trained parameters is nearest, found as brute force finds it, and recorded."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from tests.support.models import MODELS
from variants import LoRA, Variant, VariantError, attach, resolve
from variants.adapters.parameter_budget import fit, parse

SIZES = {name: 60 for name in ("adapter_h", "adapter_l", "adapter_p", "adapter_d")} | {
    **dict.fromkeys(("lora", "dora", "adalora"), 16),
    "vera": 480,
    "prefix_embed": 130,
    "prefix_layer": 65,
    "prefix_tuning": 40,
    "ft_top2": 2,
}
"""The largest size that brute force tries: what fits maps of 16 features, or enough for the budgets."""


@lru_cache
def brute_force(name: str) -> dict[int, int]:
    """Every size -> the parameters that it trains, on a model with values."""
    variant, model, counts = resolve(name)(), MODELS["roberta"](), {}
    for size in range(1, SIZES[name] + 1):
        adapted = attach(model, variant.sized(size))
        counts[size] = adapted.count()["adapter"]
        adapted.deactivate()
    return counts


def meta(name: str = "roberta"):
    return MODELS[name]().to("meta")


@pytest.mark.parametrize(
    ("text", "number"),
    [("0.3M", 300_000), ("300K", 300_000), ("300000", 300_000), (1000, 1000), ("0.043m", 43_000), ("1B", 10**9)],
)
def test_a_budget_is_read(text, number) -> None:
    assert parse(text) == number


@pytest.mark.parametrize("text", ["", "many", "-3", "0", "0.3 Mio", "3MM", "0.0000001M"])
def test_what_is_no_budget_says_so(text) -> None:
    with pytest.raises(VariantError, match="a budget is a number of parameters such as 0.3M"):
        parse(text)


@pytest.mark.parametrize("budget", [1, 333, 800, 1900])
@pytest.mark.parametrize("name", SIZES)
def test_the_nearest_size_is_found(name, budget) -> None:
    cls, counts = resolve(name), brute_force(name)
    best = min(counts, key=lambda size: (abs(counts[size] - budget), size))
    found, counted = fit(meta(), cls(), budget)
    assert (getattr(found, cls.size), counted) == (best, counts[best])


def test_other_options_stay_and_ranks_keep_their_proportion() -> None:
    fitted, counted = fit(meta(), LoRA(r=1, alpha=3.0, target="attn"), 2 * 4 * 32 * 5)
    assert fitted == LoRA(r=5, alpha=3.0, target="attn") and counted == 1280
    adalora, _ = fit(meta(), resolve("adalora")(init_r=12, target_r=8), 2 * 2 * (32 + 1) * 6)
    assert (adalora.init_r, adalora.target_r) == (6, 4)


def test_a_rank_ends_where_the_model_ends() -> None:
    fitted, counted = fit(meta(), LoRA(), 10**9)
    assert fitted.r == 16 and counted == 2 * 2 * 32 * 16


@pytest.mark.parametrize("name", ["bitfit", "full", "head"])
def test_a_variant_without_a_size_says_so(name) -> None:
    with pytest.raises(VariantError, match=f"{name} has no size"):
        fit(meta(), resolve(name)(), 1000)


def test_fitting_leaves_the_generators_alone_and_a_variant_from_outside_without_a_size_is_refused() -> None:
    class Outside(Variant):
        name = "outside"

    before = torch.get_rng_state()
    fit(meta(), LoRA(), 1000)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(VariantError, match="outside has no size"):
        fit(meta(), Outside(), 1000)
