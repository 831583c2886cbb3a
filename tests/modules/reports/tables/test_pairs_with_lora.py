"""Each method beside LoRA of about its size."""

from __future__ import annotations

import pytest
from scipy import stats

from modules.benchmarks.glue import GLUE
from modules.reports.formats.differences import differences_text
from modules.reports.formats.markdown import to_markdown
from modules.reports.tables.build import build
from modules.reports.tables.pairs import lora_pairs
from modules.reports.tables.significance import compare
from tests.support.results import run

LORA, OTHER = [0.80, 0.82, 0.85], [0.79, 0.80, 0.84]


def results(variant: str, scores: list[float], adapter: int, wanted: int | None = None, training: dict | None = None):
    size = {"parameters": {"adapter": adapter, "head": 592130, "total": 124647170}, "variant": variant}
    budget = {"budget": {"wanted": wanted, "counted": "trained"}} if wanted else {}
    options = {"variant_config": {"r": adapter // 1000}, "training": {"lr": 1e-3, **(training or {})}}
    return [run("rte", score, seed, **size, **budget, **options) for seed, score in enumerate(scores)]


def table(wanted: bool = True, unsized: bool = True):
    """LoRA and DoRA at 18K and 74K, and, ``unsized`` by any budget, the head alone, RandLoRA and the whole model."""
    sized = [
        *(("lora", LORA, 18_432, 18_000), ("lora", LORA, 73_728, 74_000)),
        *(("dora", OTHER, 13_824, 18_000), ("dora", OTHER, 78_336, 74_000)),
    ]
    rows = [results(*each[: 4 if wanted else 3]) for each in sized]
    others = {"head": 0, "randlora": 18_800, "full": 124_055_040, "hra": 150_000}
    rows += [results(name, OTHER, size) for name, size in others.items()] if unsized else []
    (section,) = build([run for row in rows for run in row], GLUE)
    return section


def test_each_row_has_the_lora_of_its_size() -> None:
    """A row without a budget too; those that train nothing, everything, or more than twice as many have none."""
    section = table()
    sizes = [(row.variant, row.runs[0].parameters["adapter"]) for row in section.rows]
    found = {sizes[first]: sizes[second] for first, second in lora_pairs(section)}
    assert found == {
        ("dora", 13_824): ("lora", 18_432),
        ("dora", 78_336): ("lora", 73_728),
        ("randlora", 18_800): ("lora", 18_432),
    }


def test_differences_are_of_those_pairs_alone() -> None:
    """By the paired t-test, corrected for two pairs, not for the six that four rows make."""
    section = table(unsized=False)
    (found,) = compare(section, lora_pairs(section))
    expected = stats.ttest_rel(OTHER, LORA)
    assert len(found.differences) == 2
    for d in found.differences:
        assert d.mean == pytest.approx(-100 * 0.04 / 3) and d.p == pytest.approx(expected.pvalue)
        assert d.corrected == pytest.approx(2 * expected.pvalue)
    text, screen = to_markdown([section], GLUE), differences_text([section])
    assert "### Each method against LoRA of about the same size" in text and "each method against LoRA" in screen
    assert text.count("lora | 81.0 | 82.3 | -1.3 |") == 2


def test_bases_are_kept_apart() -> None:
    """A row on a base in few bits has its LoRA there, or none."""
    rows = [results("lora", LORA, 18_432, 18_000), results("dora", OTHER, 13_824, 18_000, {"quantise": "nf4"})]
    (section,) = build([run for row in rows for run in row], GLUE)
    assert lora_pairs(section) == []


def test_only_of_comparisons_at_equal_sizes() -> None:
    section = table(wanted=False)
    assert lora_pairs(section) == [] and "about the same size" not in to_markdown([section], GLUE)
