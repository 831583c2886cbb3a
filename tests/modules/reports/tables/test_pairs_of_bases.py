"""Rows on a base in few bits beside the same on the base as it is."""

from __future__ import annotations

import pytest
from scipy import stats

from modules.benchmarks.glue import GLUE
from modules.reports.formats.differences import differences_text
from modules.reports.formats.markdown import to_markdown
from modules.reports.tables.build import build
from modules.reports.tables.pairs import base_pairs
from modules.reports.tables.significance import compare
from tests.support.results import run

DENSE, NF4 = [0.80, 0.82, 0.85], [0.79, 0.80, 0.84]
SETTINGS = {"lr": 5e-4, "batch_size": 32, "epochs": 8, "max_length": 64}


def results(scores: list[float], training: dict | None = None, **changes) -> list:
    return [
        run("rte", score, seed, training=SETTINGS | (training or {}), **changes) for seed, score in enumerate(scores)
    ]


def test_a_pair_differs_in_the_base_alone() -> None:
    """Another rate and another variant are no partners; seeds stacked and alone are."""
    stacked = results(NF4, {"quantise": "nf4", "seeds": [0, 1, 2]})
    other_rate = results(NF4, {"quantise": "nf4-dq", "lr": 1e-3})
    other_variant = results(NF4, {"quantise": "nf4"}, variant="dora")
    (section,) = build([*results(DENSE), *stacked, *other_rate, *other_variant], GLUE)
    ((first, second),) = base_pairs(section)
    assert section.rows[first].runs[0].training["quantise"] == "nf4" and section.rows[first].variant == "lora"
    assert "quantise" not in section.rows[second].runs[0].training


def test_differences_are_of_those_pairs_alone() -> None:
    """Few bits minus as it is, by the paired t-test; corrected for two pairs, not for the six that four rows make."""
    dora = [results(values, base, variant="dora") for values, base in ((DENSE, {}), (NF4, {"quantise": "nf4"}))]
    (section,) = build([*results(DENSE), *results(NF4, {"quantise": "nf4"}), *dora[0], *dora[1]], GLUE)
    (found,) = compare(section, base_pairs(section))
    assert len(found.differences) == 2
    expected = stats.ttest_rel(NF4, DENSE)
    for d in found.differences:
        assert d.mean == pytest.approx(-100 * 0.04 / 3) and d.p == pytest.approx(expected.pvalue)
        assert d.corrected == pytest.approx(2 * expected.pvalue)
    text, screen = to_markdown([section], GLUE), differences_text([section])
    assert "### A base in few bits against the same base as it is" in text
    assert text.count("| nf4 | 81.0 | 82.3 | -1.3 |") == 2 and "a base in few bits against" in screen


def test_many_pairs_have_a_summary() -> None:
    """Of each of 16 rates one pair; the first loses what the spread supports."""
    rates = [1e-4 * k for k in range(1, 17)]
    dense = [each for lr in rates for each in results(DENSE, {"lr": lr})]
    lost = results([score - 0.05 - 1e-5 * k for k, score in enumerate(DENSE)], {"lr": rates[0], "quantise": "nf4"})
    nf4 = [each for lr in rates[1:] for each in results(NF4, {"lr": lr, "quantise": "nf4"})]
    (section,) = build([*dense, *lost, *nf4], GLUE)
    text = to_markdown([section], GLUE)
    words = "Of 16 pairs 1 are told apart, 1 of them below 0; the mean of all differences is -1.6, the lowest end of an"
    assert words in text and text.count("| nf4 | 81.0 | 82.3 | -1.3 |") == 15
    (few,) = build([*dense, *nf4[:9]], GLUE)
    assert "pairs" not in to_markdown([few], GLUE).split("### A base in few bits")[1].replace("these pairs", "")


def test_a_table_without_such_rows_says_nothing_of_it() -> None:
    (section,) = build([*results(DENSE), *results(NF4, {"lr": 1e-3})], GLUE)
    assert base_pairs(section) == [] and compare(section, []) == []
    assert "few bits" not in to_markdown([section], GLUE) + differences_text([section])
