"""Subspace similarity and amplification against direct definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modules.analysis.subspace import amplification, by_chance, gaussian, right_singular, similarity


def orthonormal(d: int, k: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, k)))[0]


# ---- φ and Table 7's norms ---------------------------------------------------------------------------------


def test_similarity_is_its_definition() -> None:
    A, B = (np.random.default_rng(seed).normal(size=(r, 20)) for seed, r in ((0, 5), (1, 9)))
    U, V = np.linalg.svd(A)[2].T, np.linalg.svd(B)[2].T
    grid = similarity(right_singular(torch.tensor(A)), right_singular(torch.tensor(B)))
    assert grid.shape == (5, 9)
    for i in range(1, 6):
        for j in range(1, 10):
            assert grid[i - 1, j - 1] == pytest.approx(np.linalg.norm(U[:, :i].T @ V[:, :j]) ** 2 / min(i, j))


def test_similarity_is_one_within_a_subspace_and_zero_across() -> None:
    Q = torch.tensor(orthonormal(12, 8, 0))
    assert similarity(Q[:, :4], Q[:, :4])[-1, -1] == pytest.approx(1)
    assert similarity(Q[:, :2], Q @ torch.tensor(orthonormal(8, 8, 1)))[-1, -1] == pytest.approx(1)  # lies in the other
    assert similarity(Q[:, :4], Q[:, 4:]).abs().max() < 1e-20


def test_random_subspaces_agree_by_chance() -> None:
    d, trials = 50, 200
    grids = torch.stack([similarity(gaussian(3, d, 2 * k), gaussian(7, d, 2 * k + 1)) for k in range(trials)])
    for i, j in ((1, 1), (3, 3), (3, 7)):
        sample = grids[:, i - 1, j - 1]
        assert by_chance(i, j, d) == max(i, j) / d
        assert abs(sample.mean() - by_chance(i, j, d)) < 4 * sample.std() / trials**0.5


def test_directions_end_where_the_rank_does() -> None:
    B, A = torch.randn(30, 3), torch.randn(3, 20)
    assert right_singular(B @ A, 8).shape == (20, 3)
    assert right_singular(B @ A, 2).shape == (20, 2)
    assert right_singular(torch.zeros(4, 5)).shape == (5, 0)


def test_amplification_of_a_known_update() -> None:
    """W = U diag(10, 5, 2, 1) Vᵀ, and ΔW adds 6 and 8 where W has 2 and 1."""
    U, V = torch.tensor(orthonormal(9, 4, 0)), torch.tensor(orthonormal(7, 4, 1))
    weight = U @ torch.diag(torch.tensor([10.0, 5, 2, 1], dtype=torch.float64)) @ V.T
    delta = U[:, 2:] @ torch.diag(torch.tensor([6.0, 8], dtype=torch.float64)) @ V[:, 2:].T
    found = amplification(weight, delta, 4)
    assert found.rank == 2  # of ΔW
    assert (found.delta, found.weight) == pytest.approx((10, 130**0.5))
    assert (found.on_delta, found.on_weight) == pytest.approx((5**0.5, 125**0.5))
    assert found.factor == pytest.approx(10 / 5**0.5)
    assert 0 < found.on_random < found.on_weight
    assert amplification(weight, delta, 1).on_delta == pytest.approx(1)  # the 8 is first, where W has 1
