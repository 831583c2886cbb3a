"""The measures of the LoRA paper's section 7: subspace similarity (eq. 4) and amplification (Table 7)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def right_singular(matrix: Tensor, rank: int | None = None) -> Tensor:
    """Right singular vectors of ``matrix`` (out, in) as columns (in, rank), by falling singular value.

    Args:
        rank: how many; by default (and at most) as many as the matrix has singular values above rounding.
    """
    return _svd(matrix, rank)[1]


def similarity(U: Tensor, V: Tensor) -> Tensor:
    """φ(i, j) = ‖U_iᵀ V_j‖²_F / min(i, j) for the first i columns of U and the first j of V (eq. 4).

    1 where one of the two subspaces lies in the other, 0 where they are orthogonal.

    Args:
        U, V: orthonormal columns, (d, m) and (d, n).

    Returns:
        (m, n), entry [i-1, j-1] for i and j.
    """
    squares = (U.double().T @ V.double()).square().cumsum(0).cumsum(1)
    i, j = (torch.arange(1, n + 1, device=U.device) for n in squares.shape)
    return squares / torch.minimum(i[:, None], j[None, :])


def by_chance(i: int, j: int, d: int) -> float:
    """Expectation of φ(i, j) for two random subspaces of a space of d dimensions: i·j/d over min(i, j)."""
    return max(i, j) / d


def gaussian(rank: int, d: int, seed: int) -> Tensor:
    """``rank`` singular directions (d, rank) of a random Gaussian matrix, the paper's baseline.

    They are uniformly distributed, and drawn as such without the matrix.
    """
    rng = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, rank, generator=rng, dtype=torch.float64))[0]


@dataclass(frozen=True)
class Amplification:
    """Frobenius norms of a frozen W and its update ΔW (Table 7).

    Attributes:
        rank: r, the number of singular directions that W is projected on.
        delta, weight: ‖ΔW‖ and ‖W‖.
        on_delta, on_weight, on_random: ‖UᵀWVᵀ‖ with U and V the first r singular directions of ΔW, of W itself, and of
            a random Gaussian matrix.
    """

    rank: int
    delta: float
    weight: float
    on_delta: float
    on_weight: float
    on_random: float

    @property
    def factor(self) -> float:
        """‖ΔW‖ / ‖UᵀWVᵀ‖: how much stronger ΔW is in its own directions than W was there."""
        return self.delta / self.on_delta if self.on_delta else float("inf")


def amplification(weight: Tensor, delta: Tensor, rank: int, seed: int = 0) -> Amplification:
    """Amplification of ``weight`` by ``delta``, both (out, in).

    Args:
        rank: r; fewer directions where ``delta`` has a smaller rank.
        seed: of the random matrix.
    """
    weight, delta = weight.double(), delta.double()
    own = _svd(delta, rank)
    rank = own[1].shape[1]
    random = (gaussian(rank, size, 2 * seed + side) for side, size in enumerate(weight.shape))
    norms = [(U.T @ weight @ V).norm().item() for U, V in (own, _svd(weight, rank), random)]
    return Amplification(rank, delta.norm().item(), weight.norm().item(), *norms)


def _svd(matrix: Tensor, rank: int | None) -> tuple[Tensor, Tensor]:
    """(U, V): the first ``rank`` singular directions as columns, those of a singular value near 0 left out."""
    U, S, Vh = torch.linalg.svd(matrix.detach().double(), full_matrices=False)
    # singular values below this are rounding errors of the fp32 product B A
    tiny = S.max() * max(matrix.shape) * torch.finfo(torch.float32).eps if S.numel() else 0
    kept = min(int((tiny < S).sum()), S.numel() if rank is None else rank)
    return U[:, :kept], Vh[:kept].T
