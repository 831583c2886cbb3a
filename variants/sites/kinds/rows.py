"""Which output features of a module a site covers, where they lie, and how an output is cut along them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Output features ``start`` to ``stop`` of every ``period``.

    One period is the whole map, unless a fused map has the queries, keys and values of each attention head side by
    side: there a period is what one head has of them, and the queries are the first third of each.

    Attributes:
        total: output features of the module, a multiple of ``period``.
    """

    start: int
    stop: int
    period: int
    total: int

    @property
    def is_whole(self) -> bool:
        """They are all of the module's."""
        return len(self) == self.total

    @property
    def groups(self) -> int:
        """How many periods there are; 1 where the rows are one span."""
        return self.total // self.period

    def __len__(self) -> int:
        return (self.stop - self.start) * self.groups

    def of(self, matrix: Tensor) -> Tensor:
        """These rows of (total, ...), (len, ...): a view where they are one span, else a copy."""
        return matrix[self.start : self.stop] if self.groups == 1 else self._window(matrix).flatten(0, 1)

    def write(self, matrix: Tensor, rows: Tensor) -> None:
        """Overwrite these rows of (total, ...) in place."""
        if self.groups == 1:
            matrix[self.start : self.stop].copy_(rows)
        else:
            self._window(matrix).copy_(rows.unflatten(0, (self.groups, -1)))

    def spread(self, rows: Tensor) -> Tensor:
        """(len, k) in their places, zeros elsewhere: (total, k)."""
        margin = (0, 0, self.start, self.period - self.stop)
        return F.pad(rows.unflatten(0, (self.groups, -1)), margin).flatten(0, 1)

    def overlap(self, other: Rows) -> bool:
        """Whether a feature is in both, of one module."""
        if self.period == other.period:
            return self.start < other.stop and other.start < self.stop
        return bool(set(self.indices()) & set(other.indices()))

    def indices(self) -> list[int]:
        """Every feature, in order."""
        return [base + i for base in range(0, self.total, self.period) for i in range(self.start, self.stop)]

    def _window(self, matrix: Tensor) -> Tensor:
        return matrix.unflatten(0, (self.groups, self.period))[:, self.start : self.stop]


class Cut:
    """A module's output in parts: one for each of the rows (which share a period and do not overlap), and the rest."""

    def __init__(self, rows: Sequence[Rows]) -> None:
        self.groups, self._period = rows[0].groups, rows[0].period
        if any(part.period != self._period for part in rows):
            raise ValueError("rows of one cut have one period")
        self.spans = [(part.start, part.stop) for part in rows]
        edges = sorted({0, self._period, *itertools.chain(*self.spans)})
        self._widths = [stop - start for start, stop in itertools.pairwise(edges)]
        self.places = [edges.index(start) for start, _ in self.spans]
        """Which of the parts belongs to each of the rows."""

    def split(self, y: Tensor) -> list[Tensor]:
        """(..., total) -> its parts, each (..., features)."""
        if self.groups == 1:
            return list(y.split(self._widths, dim=-1))
        parts = y.unflatten(-1, (self.groups, self._period)).split(self._widths, dim=-1)
        return [part.flatten(-2) for part in parts]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """What :meth:`split` gave, as one output again."""
        if self.groups == 1:
            return torch.cat(list(parts), dim=-1)
        return torch.cat([part.unflatten(-1, (self.groups, -1)) for part in parts], dim=-1).flatten(-2)
