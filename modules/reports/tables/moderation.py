"""The spread of a difference, from all pairs of a comparison together: moderated t (Smyth 2004, Statistical
Applications in Genetics and Molecular Biology 3(1), article 3), made for many comparisons of few repetitions.

Of three seeds a pair's own spread has two degrees of freedom: after a correction for a thousand pairs its interval is
a hundred standard errors wide. But the other pairs say what spreads are like here. Variances are taken for draws from
a scaled inverse chi-squared distribution with d0 degrees of freedom around s0^2, both estimated from all of them
(section 6.2); a pair's is then (d0 s0^2 + d s^2) / (d0 + d), with d0 + d degrees of freedom (section 3). Where rows
differ much in spread, d0 is small, and little is borrowed.

Two things are more careful than in the paper. A variance is never lowered, as a row that truly varies more than others
would count as told apart by chance. And one that the scores' rounding explains is no evidence of none: it is at least
that of rounding.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modules.reports.tables.significance import Difference

FEWEST = 3
"""Pairs from which anything can be said of spreads."""


def moderated(differences: Sequence[Difference], most: float) -> list[Difference]:
    """The differences with moderated errors and degrees of freedom, in their order.

    Args:
        most: degrees of freedom that all rows have together: the pairs share rows, and know no more.
    """
    known = [d for d in differences if d.error]
    if len(known) < FEWEST:
        return list(differences)
    prior, usual = _prior([d.error**2 for d in known], [d.freedom for d in known])
    result = []
    for d in differences:
        if d.error:
            own = d.error**2
            shared = usual if math.isinf(prior) else (prior * usual + d.freedom * own) / (prior + d.freedom)
            freedom = max(d.freedom, min(prior + d.freedom, most))
            d = replace(d, error=math.sqrt(max(own, shared)), freedom=freedom)
        result.append(d)
    return result


def _prior(variances: Sequence[float], freedoms: Sequence[float]) -> tuple[float, float]:
    """d0 and s0^2: by the mean and the variance of log s^2, less what chi-squared has of them."""
    logs = [math.log(v) - digamma(d / 2) + math.log(d / 2) for v, d in zip(variances, freedoms, strict=True)]
    excess = statistics.variance(logs) - statistics.fmean(trigamma(d / 2) for d in freedoms)
    if excess <= 0:  # spreads differ no more than chance has it: one for all
        return math.inf, statistics.fmean(variances)
    half = _inverse_trigamma(excess)
    return 2 * half, math.exp(statistics.fmean(logs) + digamma(half) - math.log(half))


def gap(values: Iterable[float]) -> float:
    """The smallest gap between unlike scores: of 24 prompts 1/24; next to nothing of scores that are not counted."""
    there = sorted(set(values))
    return min((b - a for a, b in zip(there, there[1:], strict=False) if b - a > 1e-9 * abs(b)), default=0.0)


def rounding(step: float) -> float:
    """The variance that rounding to steps gives the difference of two scores: step^2 / 12 for each."""
    return step**2 / 6


# ---- derivatives of log gamma, by their asymptotic series (Abramowitz and Stegun, 6.3.18, 6.4.12) -------------------


def digamma(x: float) -> float:
    """The first derivative, x > 0."""
    shift = 0.0
    while x < 10:
        shift, x = shift - 1 / x, x + 1
    y = 1 / (x * x)
    return shift + math.log(x) - 0.5 / x - y * (1 / 12 - y * (1 / 120 - y * (1 / 252 - y / 240)))


def trigamma(x: float) -> float:
    """The second derivative, x > 0."""
    shift = 0.0
    while x < 10:
        shift, x = shift + 1 / (x * x), x + 1
    y = 1 / (x * x)
    return shift + 1 / x + y / 2 + y / x * (1 / 6 - y * (1 / 30 - y * (1 / 42 - y / 30)))


def _inverse_trigamma(value: float) -> float:
    """The x whose trigamma is ``value``, which falls from infinity to 0: by halving, in logarithms."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if trigamma(math.exp(middle)) > value else (low, middle)
    return math.exp(low)
