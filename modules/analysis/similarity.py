"""Subspace similarity of two runs' adapters (LoRA paper, eq. 4), site by site."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from modules.analysis.adapter_directions import Directions
from modules.analysis.subspace import gaussian, similarity
from variants.errors import UserError


@dataclass
class SiteSimilarity:
    """Subspace similarity φ(i, j) of two runs at a site, as grids (m, n) with entry [i-1, j-1].

    Attributes:
        trained: of the trained adapters; start: of the same before training, None where it is not known.
        random: of random matrices of the same ranks.
        width: dimensions of the space that the directions are in.
    """

    path: str
    trained: Tensor
    start: Tensor | None
    random: Tensor
    width: int

    @property
    def points(self) -> list[tuple[int, int]]:
        """The (i, j) in tables: 1, 2, 4, ... of both, and all of both."""
        m, n = self.trained.shape
        return [(k, k) for k in (1, 2, 4, 8, 16, 32, 64, 128) if k < min(m, n)] + [(m, n)]


@dataclass
class Pair:
    """Two runs and the sites that both of them adapt."""

    a: Directions
    b: Directions
    sites: list[SiteSimilarity]

    @property
    def name(self) -> str:
        """Name of its files, without an ending."""
        return f"similarity-{self.a.name}-{self.b.name}"

    @property
    def remark(self) -> str:
        """A warning where the two runs started from common rows of A, or ""."""
        shared = [s for s in self.sites if s.start is not None and s.start[-1, -1] > 0.5 + 0.5 * s.random[-1, -1]]
        if not shared:
            return ""
        return (
            "These two runs started from common rows of A (one seed gives them): much of what they share was there "
            "before training. Compare runs of different seeds."
        )


def compare(a: Directions, b: Directions) -> Pair:
    """The similarity of two runs at every site that both adapt.

    Raises:
        UserError: they have no site in common, or backbones of different width.
    """

    sites = []
    for path in [path for path in a.trained if path in b.trained]:
        U, V = a.trained[path], b.trained[path]
        if len(U) != len(V):
            raise UserError(f"{a.name} and {b.name} are on backbones of different width: {path} has {len(U)}, {len(V)}")
        start = similarity(a.start[path], b.start[path]) if path in a.start and path in b.start else None
        random = similarity(gaussian(U.shape[1], len(U), 0), gaussian(V.shape[1], len(V), 1))
        sites.append(SiteSimilarity(path, similarity(U, V), start, random, len(U)))
    if not sites:
        raise UserError(f"{a.name} and {b.name} adapt no site in common")
    return Pair(a, b, sites)
