"""A site is the only reader and writer of base weights: whole maps, slices, transposed ones, interleaved ones."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from variants import VariantError
from variants.contract.models import Conv1D
from variants.sites.kinds import KINDS, is_conv1d, is_linear, kind_of
from variants.sites.kinds.rows import Cut, Rows
from variants.sites.site import ModuleSite, Site

OUT, IN = 12, 5
PLACES = {
    "whole": (range(12), {}),
    "span": (range(4, 8), {"start": 4, "stop": 8}),
    "interleaved": ([2, 3, 8, 9], {"start": 2, "stop": 4, "period": 6}),
}


def module(kind: str, bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    if kind == "plain":
        return nn.Linear(IN, OUT, bias)
    return Conv1D(torch.randn(OUT, IN), torch.randn(OUT))


def dense(of: nn.Module) -> torch.Tensor:
    """(out, in), read without a site."""
    weight = of.weight.detach()
    return weight if isinstance(of, nn.Linear) else weight.t()


@pytest.fixture(params=["plain", "transposed"])
def kind(request) -> str:
    return request.param


@pytest.fixture(params=PLACES)
def place(request) -> tuple[list[int], dict]:
    rows, options = PLACES[request.param]
    return list(rows), options


def test_it_reads_its_rows(kind, place) -> None:
    rows, options = place
    own = module(kind)
    site, x = Site(own, "a.x", "a", **options), torch.randn(2, 3, IN)
    assert (site.out_features, site.in_features, site.total_out) == (len(rows), IN, OUT)
    assert site.rows.indices() == rows and len(site.rows) == len(rows) and site.is_whole == (len(rows) == OUT)
    assert site.is_transposed == (kind == "transposed") == is_conv1d(own) and is_linear(own)
    assert torch.equal(site.weight(), dense(own)[rows]) and torch.equal(site.bias(), own.bias[rows])
    assert torch.allclose(site.times(x), F.linear(x, dense(own)[rows]), atol=1e-6)
    assert (site.device, site.dtype) == (own.weight.device, torch.float32)
    assert site.parameter is own.weight


def test_it_writes_its_rows_and_restores_them_exactly(kind, place) -> None:
    rows, options = place
    own = module(kind)
    before = copy.deepcopy(own)
    site, others = Site(own, "a.x", "a", **options), [i for i in range(OUT) if i not in rows]
    new, new_bias = torch.randn(len(rows), IN), torch.randn(len(rows))
    kept, weight_alone = site.kept(), site.kept(bias=False)
    site.write(new, new_bias)
    assert torch.equal(dense(own)[rows], new) and torch.equal(own.bias.detach()[rows], new_bias)
    assert torch.equal(dense(own)[others], dense(before)[others])
    assert torch.equal(own.bias[others], before.bias[others])
    site.restore(weight_alone)
    assert torch.equal(dense(own), dense(before)) and torch.equal(own.bias.detach()[rows], new_bias)
    for _ in range(2):  # it can be brought back again
        site.write(new, None)
        site.restore(kept)
        assert torch.equal(dense(own), dense(before)) and torch.equal(own.bias, before.bias)


def test_a_view_where_there_can_be_one() -> None:
    own = module("plain")
    assert Site(own, "a", "a", 4, 8).weight().data_ptr() == own.weight[4].data_ptr()
    assert Site(own, "a", "a", 2, 4, 6).weight().data_ptr() != own.weight[2].data_ptr()


def test_without_a_bias_none_is_read_or_written() -> None:
    own = module("plain", bias=False)
    site = Site(own, "a", "a")
    site.restore(site.kept())
    site.write(site.weight() * 0, torch.ones(OUT))
    assert site.bias() is None and own.bias is None and not own.weight.any()


def test_a_shallow_copy_can_be_written_to(kind) -> None:
    own = module(kind)
    twin, before = copy.copy(own), dense(own).clone()
    twin._parameters = dict(own._parameters)
    site = Site(own, "a", "a").on(twin)
    assert site.parameter is own.weight
    site.unshare()
    assert site.parameter is not own.weight and not site.parameter.requires_grad
    site.write(site.weight() * 0, None)
    assert torch.equal(dense(own), before) and not dense(twin).any()


def test_the_whole_of_a_part() -> None:
    own = module("plain")
    part = Site(own, "a.q", "a", 2, 4, 6)
    assert part.whole() == Site(own, "a", "a") and part.span == ("a", 2, 4, 6) and part.whole().is_whole


def test_other_modules_are_no_linear_maps() -> None:
    for other in (nn.LayerNorm(3), nn.Embedding(3, 4), nn.Conv2d(2, 2, 1, groups=2)):
        assert kind_of(other) is None and not is_linear(other)
    assert len(KINDS) == 6
    site = ModuleSite(nn.LayerNorm(OUT), "a", "a", like=Site(module("plain"), "b", "b"))
    assert site.total_out == site.in_features == site.out_features == OUT and site.bias() is None
    for ask in (site.weight, lambda: site.times(torch.ones(OUT)), lambda: site.parameter):
        with pytest.raises(VariantError, match="a is no linear map"):
            ask()


# ---- rows and cuts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [Rows(0, 12, 12, 12), Rows(4, 8, 12, 12), Rows(2, 4, 6, 12), Rows(0, 1, 3, 12)])
def test_rows_are_spread_to_where_they_are_read(rows: Rows) -> None:
    part = torch.randn(len(rows), 3)
    whole = rows.spread(part)
    assert whole.shape == (12, 3) and torch.equal(rows.of(whole), part)
    assert torch.equal(whole.count_nonzero(dim=1) > 0, torch.isin(torch.arange(12), torch.tensor(rows.indices())))


@pytest.mark.parametrize(
    ("a", "b", "overlap"),
    [
        (Rows(0, 4, 12, 12), Rows(4, 8, 12, 12), False),
        (Rows(0, 5, 12, 12), Rows(4, 8, 12, 12), True),
        (Rows(0, 2, 6, 12), Rows(2, 6, 6, 12), False),
        (Rows(0, 2, 6, 12), Rows(2, 4, 12, 12), False),
        (Rows(0, 2, 6, 12), Rows(6, 8, 12, 12), True),
        (Rows(0, 2, 6, 12), Rows(0, 12, 12, 12), True),
    ],
)
def test_rows_overlap_where_they_share_a_feature(a: Rows, b: Rows, overlap: bool) -> None:
    assert a.overlap(b) == b.overlap(a) == bool(set(a.indices()) & set(b.indices())) == overlap


@pytest.mark.parametrize("rows", [[Rows(2, 5, 12, 12), Rows(8, 12, 12, 12)], [Rows(0, 1, 4, 12), Rows(2, 4, 4, 12)]])
def test_a_cut_gives_each_of_the_rows_its_part_and_joins_them_again(rows: list[Rows]) -> None:
    cut, y = Cut(rows), torch.randn(2, 3, 12)
    parts = cut.split(y)
    for own, place in zip(rows, cut.places, strict=True):
        assert torch.equal(parts[place], y[..., own.indices()])
    assert torch.equal(cut.join(parts), y)
    parts[cut.places[0]] = parts[cut.places[0]] + 1
    changed = (cut.join(parts) != y).any(dim=0).any(dim=0).nonzero().flatten().tolist()
    assert changed == rows[0].indices()


def test_a_cut_has_one_period() -> None:
    with pytest.raises(ValueError, match="one period"):
        Cut([Rows(0, 2, 6, 12), Rows(4, 6, 12, 12)])
