"""What an adapter adds to base weights, and the update of lower rank that is nearest to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from variants.adapters.adapter import Adapter, copy_tensors
from variants.errors import VariantError
from variants.layer import AdapterLayer, LowRank, seeded, wide
from variants.sites.site import Site

LARGE = 1024
"""Smaller side of matrices of which all singular triples are computed; of larger ones the leading ones alone."""


class Nearest(NamedTuple):
    """B (out, r) and A (r, in), and what they leave out of an update: squared Frobenius norms.

    Attributes:
        lost: ‖ΔW - BA‖², 0 where nothing was approximated.
        norm: ‖ΔW‖².
    """

    B: Tensor
    A: Tensor
    lost: float
    norm: float


def relative_error(found: Iterable[Nearest]) -> float:
    """‖ΔW - BA‖ / ‖ΔW‖ (Frobenius) over all of ``found``; 0 where nothing is lost."""
    lost, norm = (sum(part) for part in zip(*((each.lost, each.norm) for each in found), strict=True))
    return (lost / norm) ** 0.5 if norm > 0 else 0.0


@dataclass
class Update:
    """What is added to one site's weight (out, in): left (out, k) times right (k, in), and a matrix without factors."""

    site: Site
    left: Tensor
    right: Tensor
    rest: Tensor | None = None

    def widened(self) -> Update:
        """The same update of the whole module, zero outside the slice."""
        spread = self.site.rows.spread
        rest = None if self.rest is None else spread(self.rest)
        return Update(self.site.whole(), spread(self.left), self.right, rest)

    def __add__(self, other: Update) -> Update:
        rests = [rest for rest in (self.rest, other.rest) if rest is not None]
        left, right = torch.cat([self.left, other.left], 1), torch.cat([self.right, other.right])
        return Update(self.site, left, right, sum(rests) if rests else None)

    def nearest(self, rank: int | None = None, error: float | None = None) -> Nearest:
        """The best approximation in the Frobenius norm (Eckart and Young 1936), by singular value decomposition.

        Args:
            rank: the most that it may have; None: all that the update has.
            error: with it, the least rank whose relative error is at most this.
        """
        limit = min(self.site.in_features, self.site.out_features)
        rank = min(rank or limit, limit)
        if self.rest is None and error is None and len(self.right) <= rank:
            norm = (self.left.mT @ self.left * (self.right @ self.right.mT)).sum().item()
            return Nearest(self.left, self.right, 0.0, norm)
        if self.rest is None:  # neither is the product made
            (q, left), (p, right) = torch.linalg.qr(self.left), torch.linalg.qr(self.right.mT)
            u, s, v = torch.linalg.svd(left @ right.mT, full_matrices=False)
            return _cut(q @ u, s, v @ p.mT, rank, error)
        full = self.rest + self.left @ self.right
        if error is not None or limit <= LARGE or 4 * rank > limit:
            return _cut(*torch.linalg.svd(full, full_matrices=False), rank, error)
        found = _cut(*_leading(full, rank, self.site.path), rank, None)
        return found._replace(lost=(full - found.B @ found.A).square().sum().item(), norm=full.square().sum().item())


def _cut(u: Tensor, s: Tensor, v: Tensor, rank: int, error: float | None) -> Nearest:
    """The first ``rank`` singular triples of u (out, k), s (k), v (k, in), or as few as keep to the error."""
    squares = s.double().square()
    if error is not None:
        left = squares.flip(0).cumsum(0).flip(0)  # what is lost by leaving out this triple and all behind it
        rank = min(rank, max(1, int((left > error**2 * squares.sum()).sum())))
    root = s[:rank].sqrt()
    return Nearest(u[:, :rank] * root, root[:, None] * v[:rank], squares[rank:].sum().item(), squares.sum().item())


def _leading(matrix: Tensor, rank: int, path: str) -> tuple[Tensor, Tensor, Tensor]:
    """Leading singular triples by subspace iteration from a random start (Halko et al. 2011, arXiv 0909.4061)."""
    probe = torch.randn(matrix.shape[1], 2 * rank + 16, generator=seeded(2, path)).to(matrix)
    basis = torch.linalg.qr(matrix @ probe)[0]
    for _ in range(4):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.mT @ basis)[0])[0]
    u, s, v = torch.linalg.svd(basis.mT @ matrix, full_matrices=False)
    return basis @ u, s, v


def is_low_rank(layer: AdapterLayer) -> bool:
    """All that the layer does, merged too, is to add a declared low-rank product to its map."""
    plain = type(layer).merged is AdapterLayer.merged and not hasattr(layer, "pre") and not hasattr(layer, "lengthen")
    return plain and layer.adds_low_rank


def factors(update: LowRank) -> tuple[Tensor, Tensor]:
    """B (out, r) and A (r, in) with ΔW = B A: `inner` goes into A, scale and `outer` into B. New tensors."""
    A, B, scale, _, _ = update.widened().folded()
    return scale * B.detach(), A.detach().clone()


def low_rank_updates(adapter: Adapter) -> dict[str, Update]:
    """The updates of an adapter that are declared low-rank products, by path, a first one that is off the base off."""
    layers = {path: layer for path, layer in adapter.layers.items() if is_low_rank(layer)}
    updates = {path: Update(layer.site, *factors(layer.low_rank())) for path, layer in layers.items()}
    if adapter.first and updates:
        now = {key: tensor.detach().clone() for key, tensor in adapter.tensors().items()}
        copy_tensors(adapter, adapter.initial)
        for path, layer in layers.items():
            b, a = factors(layer.low_rank())
            updates[path] += Update(layer.site, -b, a)
        copy_tensors(adapter, now)
    return updates


def first_that_differs(one: Adapter, other: Adapter, starts: bool = False) -> str | None:
    """Path of the first site at which two adapters of one file are not the same, if any: on bases of different
    weights, what they are there depends on these.

    Args:
        starts: of the values whose delta is taken off the base, in place of the updates.
    """

    def found(adapter: Adapter) -> list[tuple[str, Tensor]]:
        if starts:
            return [(key.rpartition(".")[0], tensor) for key, tensor in adapter.initial.items()]
        updates = low_rank_updates(adapter)
        return [(path, tensor) for path, update in updates.items() for tensor in (update.left, update.right)]

    for (path, mine), (_, theirs) in zip(found(one), found(other), strict=True):
        if mine.shape != theirs.shape or not torch.allclose(mine, theirs, 0.0, 1e-4 * mine.abs().max().item()):
            return path
    return None


def as_matrix(adapter: Adapter, path: str) -> Update:
    """What a layer makes of its base weight, less that weight; the base carries no active adapter now.

    Raises:
        VariantError: the layer changes the bias too.
    """
    layer = adapter.layers[path].at_site()
    site, base = layer.site, wide(layer.site.weight())
    bias = None if site.bias() is None else site.bias().to(base.dtype)
    merged, new_bias = layer.merged(adapter.reduced(path).to(base) if path in adapter.first else base, bias)
    if bias is not None and not torch.equal(bias, new_bias):
        raise VariantError(f"{adapter.variant.name} changes the bias of {path}")
    return Update(site, base.new_zeros(site.out_features, 0), base.new_zeros(0, site.in_features), merged - base)
