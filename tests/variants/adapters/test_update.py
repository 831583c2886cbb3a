"""The nearest update of lower rank, against numpy's singular value decomposition."""

import numpy as np
import pytest
import torch
from torch import nn

from variants.adapters import update
from variants.adapters.update import Update, relative_error
from variants.sites.site import Site

RNG = torch.Generator().manual_seed(0)


def on(out_features: int, in_features: int) -> Site:
    return Site(nn.Linear(in_features, out_features), "map", "map")


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=RNG)


def lost(matrix: torch.Tensor, rank: int) -> float:
    s = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    return float(np.sqrt((s[rank:] ** 2).sum() / (s**2).sum()))


@pytest.mark.parametrize("k", [5, 12, 40], ids=["thin", "thicker", "thicker than the map"])
def test_factors_need_no_product(k):
    """The same from the factors as from the matrix, and what is said to be lost is lost."""
    whole = Update(on(30, 20), random(30, k), random(k, 20))
    matrix = whole.left @ whole.right
    found = whole.nearest(4)
    dense = Update(whole.site, random(30, 0), random(0, 20), matrix).nearest(4)
    assert torch.allclose(found.B @ found.A, dense.B @ dense.A, atol=1e-3)
    assert relative_error([found]) == pytest.approx(lost(matrix, 4), rel=1e-4)
    assert found.norm == pytest.approx(matrix.square().sum().item(), rel=1e-4)
    exact = whole.nearest()
    assert len(exact.A) == min(k, 20) and torch.allclose(exact.B @ exact.A, matrix, atol=1e-3)
    assert relative_error([exact]) < 1e-5 and exact.norm == pytest.approx(found.norm, rel=1e-4)


def test_a_factor_and_a_matrix_are_one_update():
    left, right, rest = random(9, 2), random(2, 7), random(9, 7)
    site = on(9, 7)
    both = Update(site, left, right) + Update(site, random(9, 0), random(0, 7), rest)
    assert relative_error([both.nearest(3)]) == pytest.approx(lost(left @ right + rest, 3), rel=1e-4)


@pytest.mark.parametrize("decay", [0.0, 0.5, 2.0], ids=["flat", "slow", "fast"])
def test_of_large_matrices_the_leading_triples_are_enough(decay, monkeypatch):
    """With singular values k^-decay no LoRA of the rank is nearer by a hundredth; random numbers are left alone."""
    monkeypatch.setattr(update, "LARGE", 64)
    (u, _), (v, _) = torch.linalg.qr(random(160, 128)), torch.linalg.qr(random(128, 128))
    matrix = u * torch.arange(1, 129).pow(-decay) @ v.mT
    site = on(160, 128)
    state = torch.get_rng_state()
    found = Update(site, random(160, 0), random(0, 128), matrix).nearest(8)
    assert len(found.A) == 8 and torch.equal(state, torch.get_rng_state())
    error = (matrix - found.B @ found.A).norm() / matrix.norm()
    assert relative_error([found]) == pytest.approx(error.item(), rel=1e-4)
    assert error <= 1.01 * lost(matrix, 8)


def test_the_least_rank_of_an_error():
    matrix = random(20, 16)
    whole = Update(on(20, 16), random(20, 0), random(0, 16), matrix)
    for most in (0.9, 0.5, 0.1, 0.01):
        rank = len(whole.nearest(error=most).A)
        assert lost(matrix, rank) <= most < lost(matrix, rank - 1)


def test_nothing_is_no_error():
    nothing = Update(on(6, 5), torch.zeros(6, 3), torch.zeros(3, 5))
    for found in (nothing.nearest(2), nothing.nearest(error=0.1), nothing.nearest()):
        assert relative_error([found]) == 0 and not (found.B @ found.A).any()
