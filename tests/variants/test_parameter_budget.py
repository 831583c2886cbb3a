"""--budget: the size whose number of trained parameters is nearest, found as brute force finds it, and recorded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache

import pytest
import torch
from torch import nn

from tests.support.models import MODELS
from variants import AdapterLayer, LoRA, Variant, VariantError, attach, resolve
from variants.layer import LowRank
from variants.parameter_budget import fit, parse
from variants.registry import BUILT_IN

SIZES = {name: 16 for name in BUILT_IN if resolve(name).size} | {
    **dict.fromkeys(("adapter_h", "adapter_l", "adapter_p", "adapter_d"), 60),
    "vera": 480,
    "fourierft": 256,
    "lokr": 130,
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
        try:
            adapted = attach(model, variant.sized(size))
            for layer in adapted.layers:
                if type(layer).forward is AdapterLayer.forward and not hasattr(layer, "lengthen"):
                    layer.delta_weight()
        except (ValueError, AssertionError, RuntimeError):
            continue  # a size that the method does not take
        counts[size] = adapted.count()["adapter"]
        adapted.deactivate()
    return {size: count for size, count in counts.items() if count}


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


class FrozenSidesLayer(AdapterLayer):
    """LoRA-XS: r x r values between the r first singular vectors of the weight; no check of r."""

    def __init__(self, site, config, rng):
        super().__init__(site, config)
        self.register_buffer("A", torch.eye(site.in_features)[: config.r])
        self.register_buffer("B", torch.eye(site.out_features)[:, : config.r])
        self.R = nn.Parameter(torch.zeros(config.r, config.r))

    def low_rank(self):
        return LowRank(self.A, self.B, inner=self.R)


class FrozenSides(LoRA):
    layer = FrozenSidesLayer


class CutLayer(FrozenSidesLayer):
    """PiSSA's: what there is of r singular vectors."""

    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.R = nn.Parameter(self.A.clone())
        del self.A, self.B

    def low_rank(self):
        return LowRank(self.R, self.R.T)


class Cut(LoRA):
    layer = CutLayer


@dataclass
class Even(LoRA):
    """HRA's rank."""

    step: int = 2

    def __post_init__(self):
        if self.r % self.step:
            raise ValueError(f"r must be a multiple of {self.step}, not {self.r}")


class Shrinks(LoRA):
    def sized(self, size):
        return dataclasses.replace(self, r=max(1, 16 // size))


@pytest.mark.parametrize(
    ("variant", "budget", "size"),
    [
        (FrozenSides(), 10**6, 16),  # --budget 1M picked r=354 on maps of 128 x 128, which crashed
        (FrozenSides(), 4 * 7 * 7, 7),
        (Cut(), 10**6, 16),  # r=500 was reported and 128 trained
        (Even(r=2), 10**6, 16),
        (Even(r=2), 128 * 7, 6),  # r=7 is none; of two equally near, the smaller
        (Even(r=3, step=3), 128 * 11, 12),
        (Even(r=8, step=8), 1, 8),
    ],
)
def test_a_size_that_the_method_cannot_have_is_not_picked(variant, budget, size) -> None:
    fitted, counted = fit(meta(), variant, budget)
    assert fitted.r == size and counted == attach(MODELS["roberta"](), fitted).count()["adapter"]


def test_where_no_size_fits_the_methods_own_reason_is_said() -> None:
    with pytest.raises(VariantError, match="even fits at no r from 1 to 256: r must be a multiple of 300"):
        fit(meta(), Even(r=300, step=300), 1000)
    assert fit(meta(), Shrinks(), 10**6)[1] == 2048, "more of its size is less"
