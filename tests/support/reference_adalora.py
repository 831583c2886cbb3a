"""AdaLoRA's allocation in NumPy, one matrix and one triplet at a time, as the paper writes it (arXiv 2303.10512).

Slow and plain on purpose, and independent of ``variants``. Where the paper leaves a choice it says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Matrix = dict[str, np.ndarray]
"""One update PΛQ: P (d1, r), Lambda (r), Q (r, d2)."""


@dataclass
class Reference:
    """Algorithm 1 but for the descent itself.

    Args:
        target: b(T), triplets that remain at the end.
        warmup, final: t_i and t_f in steps.
        total: T.
        interval: ΔT, steps between two allocations.
    """

    target: int
    warmup: int
    final: int
    total: int
    interval: int = 1
    beta1: float = 0.85
    beta2: float = 0.85
    sensitivity: list[Matrix] = field(default_factory=list)
    uncertainty: list[Matrix] = field(default_factory=list)
    kept: list[np.ndarray] = field(default_factory=list)

    def budget(self, t: int, start: int) -> int:
        """Eq. 14 without the -t_f of its numerator, with which b(t_i) would exceed b(0); rounded down."""
        if t < self.warmup:
            return start
        if t >= self.total - self.final:
            return self.target
        remaining = 1 - (t - self.warmup) / (self.total - self.warmup - self.final)
        return int(np.floor(self.target + (start - self.target) * remaining**3))

    def step(self, t: int, weights: list[Matrix], gradients: list[Matrix]) -> list[np.ndarray]:
        """Λ of each matrix after step t, given the weights after the descent and the gradients before it.

        In the final phase importance rests and the pattern stays (section 3.3).
        """
        if not self.sensitivity:
            self.sensitivity = [{k: np.zeros_like(w) for k, w in m.items()} for m in weights]
            self.uncertainty = [{k: np.zeros_like(w) for k, w in m.items()} for m in weights]
            self.kept = [np.ones(len(m["Lambda"]), dtype=bool) for m in weights]
        end = self.total - self.final
        if t < end:
            self._smooth(weights, gradients)
        if t == end or (self.warmup < t < end and t % self.interval == 0):
            self._allocate(self.budget(t, sum(len(m["Lambda"]) for m in weights)))
        elif t < end:
            return [m["Lambda"].copy() for m in weights]
        return [np.where(kept, m["Lambda"], 0.0) for m, kept in zip(weights, self.kept, strict=True)]

    def _smooth(self, weights: list[Matrix], gradients: list[Matrix]) -> None:
        for n, matrix in enumerate(weights):
            for k, w in matrix.items():
                importance = np.abs(w * gradients[n][k])  # eq. 8
                smooth = self.beta1 * self.sensitivity[n][k] + (1 - self.beta1) * importance  # eq. 9
                spread = np.abs(importance - smooth)
                self.uncertainty[n][k] = self.beta2 * self.uncertainty[n][k] + (1 - self.beta2) * spread  # eq. 10
                self.sensitivity[n][k] = smooth

    def scores(self) -> list[tuple[float, int, int]]:
        """(S, matrix, triplet) by eqs. 7 and 11."""
        found = []
        for n, (bar, spread) in enumerate(zip(self.sensitivity, self.uncertainty, strict=True)):
            for i in range(len(bar["Lambda"])):
                value = bar["Lambda"][i] * spread["Lambda"][i]
                left = np.mean([a * b for a, b in zip(bar["P"][:, i], spread["P"][:, i], strict=True)])
                right = np.mean([a * b for a, b in zip(bar["Q"][i], spread["Q"][i], strict=True)])
                found.append((value + left + right, n, i))
        return found

    def _allocate(self, budget: int) -> None:
        """Eq. 6: the top b(t) over all matrices; of equal scores the first, so that b(t) is met exactly."""
        ranked = sorted(self.scores(), key=lambda entry: -entry[0])  # a stable sort
        self.kept = [np.zeros_like(kept) for kept in self.kept]
        for _, n, i in ranked[:budget]:
            self.kept[n][i] = True
