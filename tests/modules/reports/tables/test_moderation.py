"""Spreads from all pairs together: the functions against scipy, the prior against draws from it, what it is for."""

import itertools
import math
import random

import numpy as np
import pytest
from scipy import special, stats

from modules.reports.tables.moderation import digamma, gap, moderated, trigamma
from modules.reports.tables.significance import Difference, difference, holm, judged


def test_derivatives_of_log_gamma_are_scipys():
    for x in np.geomspace(1e-3, 1e4, 50):
        assert digamma(x) == pytest.approx(special.digamma(x), rel=1e-10, abs=1e-10)
        assert trigamma(x) == pytest.approx(special.polygamma(1, x), rel=1e-10)


def errors(variances, freedom=2.0):
    return [Difference(0, k, 0.0, math.sqrt(v), freedom) for k, v in enumerate(variances)]


@pytest.mark.parametrize("prior", [4.0, 12.0])
def test_the_prior_that_variances_were_drawn_from_is_found(prior):
    """s^2 given sigma^2 is sigma^2 chi2(d) / d, and d0 s0^2 / sigma^2 is chi2(d0) (Smyth 2004, section 3)."""
    rng, usual = np.random.default_rng(0), 0.7
    sigma2 = prior * usual / stats.chi2.rvs(prior, size=20_000, random_state=rng)
    own = sigma2 * stats.chi2.rvs(2, size=20_000, random_state=rng) / 2
    found = moderated(errors(own), math.inf)
    assert found[0].freedom == pytest.approx(prior + 2, rel=0.12)
    shared = (prior * usual + 2 * own) / (prior + 2)
    assert [d.error**2 for d in found] == pytest.approx(np.maximum(own, shared), rel=0.08)


def test_spreads_that_differ_by_chance_alone_are_one():
    found = moderated(errors([1.0, 1.1, 0.9, 1.0]), 8)
    assert {d.freedom for d in found} == {8}
    assert [d.error**2 for d in found] == pytest.approx([1.0, 1.1, 1.0, 1.0])  # never below a pair's own


def test_few_pairs_and_unknown_spreads_stay_as_they_are():
    two = errors([1.0, 4.0])
    assert moderated(two, 2) == two
    unknown = Difference(0, 9, 3.0, 0.0, math.nan)
    assert moderated([*errors([1.0, 2.0, 3.0]), unknown], 6)[-1] == unknown


def test_a_row_far_above_twenty_others_is_told_apart():
    """Eight standard deviations above: by each pair's own two degrees of freedom no pair of 190 is."""
    draw = random.Random(0)
    rows = [[draw.gauss(8.0 * (row == 0), 1.0) for _ in range(3)] for row in range(20)]
    pairs = list(itertools.combinations(range(20), 2))
    alone = [
        difference(j, k, {"": [a - b for a, b in zip(rows[j], rows[k], strict=True)]}, {"": 1.0}) for j, k in pairs
    ]
    together = judged(alone, 20, {"": range(3)})
    assert not any(d.supported for d in together if d.first)
    assert sum(d.supported for d in together) > 15
    assert not any(d.supported for d in holm(alone))


def test_the_gap_of_counted_scores():
    assert gap([0.5, 0.5, 1 / 3, 5 / 12]) == pytest.approx(1 / 12)
    assert gap([0.1 + 0.2, 0.3]) == 0 == gap([1.0, 1.0])
