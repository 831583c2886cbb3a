"""The paired test between rows: Student's t against scipy, the estimate by hand, its level by simulation."""

import csv
import io
import itertools
import math
import random

import pytest
from scipy import special, stats

from modules.benchmarks.e2e import E2E
from modules.benchmarks.glue import GLUE
from modules.benchmarks.instruct import INSTRUCT
from modules.reports.formats.differences import differences_csv, verdict_text
from modules.reports.formats.markdown import to_markdown
from modules.reports.tables.build import build
from modules.reports.tables.moderation import gap, rounding
from modules.reports.tables.significance import (
    Difference,
    compare,
    difference,
    holm,
    incomplete_beta,
    judged,
    quantile,
    two_sided,
)
from tests.support.results import run


def test_student_and_beta_are_scipys():
    draw = random.Random(0)
    for _ in range(300):
        t, freedom, alpha = draw.uniform(-40, 40), 10 ** draw.uniform(0, 3), 10 ** draw.uniform(-5, -0.1)
        assert two_sided(t, freedom) == pytest.approx(2 * stats.t.sf(abs(t), freedom), rel=1e-9)
        assert quantile(alpha, freedom) == pytest.approx(stats.t.isf(alpha / 2, freedom), rel=1e-9)
        a, b, x = 10 ** draw.uniform(-1, 2), 10 ** draw.uniform(-1, 2), draw.random()
        assert incomplete_beta(a, b, x) == pytest.approx(special.betainc(a, b, x), rel=1e-8, abs=1e-14)


def runs(scores: dict[str, dict[str, list[float]]], **changes) -> list:
    """Runs from variant -> task -> a score per seed."""
    return [
        run(task, score, seed, variant=variant, variant_config={}, **changes)
        for variant, tasks in scores.items()
        for task, values in tasks.items()
        for seed, score in enumerate(values)
    ]


def comparison(results, benchmark=GLUE):
    (section,) = build(results, benchmark)
    (found,) = compare(section)
    return section, found


def test_one_task_is_the_paired_t_test():
    first, second = [0.71, 0.74, 0.70, 0.75], [0.70, 0.72, 0.70, 0.71]
    _, found = comparison(runs({"lora": {"rte": first}, "dora": {"rte": second}}))
    (d,) = found.differences
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert d.mean == pytest.approx(1.75) and d.freedom == pytest.approx(3)
    assert d.p == d.corrected == pytest.approx(expected.pvalue)
    assert (d.low, d.high) == pytest.approx((100 * interval.low, 100 * interval.high))
    assert found.winner is None and len(found.tied) == 2


def test_the_error_is_that_within_tasks():
    """By hand: pairs 2, 3, 4 and 10, 11, 12; means 3 and 11, variances 1 and 1; error = sqrt(1/4 * (1/3 + 1/3))."""
    scores = {"lora": {"rte": [0.62, 0.63, 0.64], "cola": [0.50, 0.51, 0.52]}}
    scores["dora"] = {"rte": [0.60, 0.60, 0.60], "cola": [0.40, 0.40, 0.40]}
    _, found = comparison(runs(scores))
    (d,) = found.differences
    assert (d.mean, d.error, d.freedom) == pytest.approx((7.0, (1 / 6) ** 0.5, 4.0))
    assert found.winner == found.rows[0] and d.supported


def test_tasks_that_start_from_mnli_are_one_block_with_it():
    """Chance that MNLI hands down is not counted twice: their pairs are averaged by seed, so 2 degrees of freedom."""
    scores = {"lora": {"mnli": [0.70, 0.72, 0.75], "rte": [0.70, 0.71, 0.75]}}
    scores["dora"] = {"mnli": [0.6, 0.6, 0.6], "rte": [0.6, 0.6, 0.6]}
    plain = comparison(runs(scores))[1].differences[0]
    started = runs(scores)
    for result in started:
        result.init_from = {"task": "mnli", "id": "m"} if result.task == "rte" else None
    linked = comparison(started)[1].differences[0]
    assert plain.freedom > 2 + 1e-9 and linked.freedom == pytest.approx(2)
    assert linked.mean == pytest.approx(plain.mean) and linked.error > plain.error


def test_rows_need_the_same_tasks_and_three_seeds():
    three = {"rte": [0.7, 0.72, 0.71]}
    assert not compare(build(runs({"lora": {"rte": [0.7, 0.8]}, "dora": {"rte": [0.6, 0.5]}}), GLUE)[0])
    assert not compare(build(runs({"lora": three, "dora": {"mrpc": [0.6, 0.5, 0.4]}}), GLUE)[0])
    assert not compare(build(runs({"lora": three}), GLUE)[0])
    assert not compare(build(runs({"lora": three, "dora": {"rte": [0.6, None, 0.4]}}), GLUE)[0])  # a diverged run
    assert compare(build(runs({"lora": three, "dora": three}), GLUE)[0])


def test_without_spread_there_is_no_winner():
    """Scores of 0.9 and 0.8 may be rounded to tenths, which alone gives an error of sqrt(0.1^2 / 6 / 3)."""
    _, found = comparison(runs({"lora": {"rte": [0.9, 0.9, 0.9]}, "dora": {"rte": [0.8, 0.8, 0.8]}}))
    (d,) = found.differences
    assert d.mean == pytest.approx(10) and d.error == pytest.approx(10 / 18**0.5) and found.winner is None
    _, found = comparison(runs({"lora": {"rte": [0.9, 0.9, 0.9]}, "dora": {"rte": [0.9, 0.9, 0.9]}}))
    assert found.differences[0].error == 0 and found.differences[0].corrected == 1


def test_holm_by_hand_and_its_intervals_agree():
    """p 0.01, 0.02, 0.04 times 3, 2, 1: 0.03, 0.04, 0.04; with 0.03 in the middle it stops there: 0.03, 0.06, 0.06."""

    def corrected(*values):
        items = [Difference(0, k, quantile(p, 7.0), 1.0, 7.0) for k, p in enumerate(values)]
        return holm(items)

    assert [d.corrected for d in corrected(0.04, 0.01, 0.02)] == pytest.approx([0.04, 0.03, 0.04])
    assert [d.corrected for d in corrected(0.04, 0.01, 0.03)] == pytest.approx([0.06, 0.03, 0.06])
    draw = random.Random(1)
    for _ in range(60):
        for d in corrected(*(10 ** draw.uniform(-4, 0) for _ in range(6))):
            assert d.supported == (d.low > 0 or d.high < 0)


def level(count: int, unlike: float, coarse: float, rounds: int = 300) -> float:
    """How often at least one pair of equal rows is told apart: one task, three seeds.

    Args:
        count: rows; unlike: a row's standard deviation is exp(unlike * a normal draw); coarse: scores are rounded to
            so many standard deviations.
    """
    draw, wrong = random.Random(2), 0
    for _ in range(rounds):
        seeds = [draw.gauss(0, 1) for _ in range(3)]
        rows = []
        for _ in range(count):
            own = math.exp(unlike * draw.gauss(0, 1))
            rows.append([seed + draw.gauss(0, own) for seed in seeds])
        if coarse:
            rows = [[round(score / coarse) * coarse for score in row] for row in rows]
        least = {"": rounding(gap(itertools.chain(*rows))) / 3 if coarse else 0.0}
        found = [
            difference(j, k, {"": [a - b for a, b in zip(rows[j], rows[k], strict=True)]}, {"": 1.0}, least)
            for j, k in itertools.combinations(range(count), 2)
        ]
        wrong += any(d.supported for d in judged(found, count, {"": range(3)}))
    return wrong / rounds


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3, 5, 12])
@pytest.mark.parametrize("unlike, coarse", [(0.0, 0.0), (0.35, 0.0), (0.7, 0.0), (0.35, 0.5), (0.35, 2.0)])
def test_equal_rows_are_rarely_told_apart(count, unlike, coarse):
    assert level(count, unlike, coarse) < 0.05 + 3 * (0.05 * 0.95 / 300) ** 0.5  # at most three standard errors above


@pytest.mark.slow
def test_equal_rows_of_several_tasks_are_rarely_told_apart():
    """The whole comparison under the null: 4 equal rows, 3 tasks of unlike levels and spreads, 3 seeds."""
    draw, wrong, rounds = random.Random(2), 0, 300
    weights = {task: 1 / len(SHAPE) for task, _, _ in SHAPE}
    for _ in range(rounds):
        rows = [{t: [level + draw.gauss(0, spread) for _ in range(3)] for t, level, spread in SHAPE} for _ in range(4)]
        found = [
            difference(
                j, k, {t: [a - b for a, b in zip(rows[j][t], rows[k][t], strict=True)] for t in weights}, weights
            )
            for j, k in itertools.combinations(range(4), 2)
        ]
        wrong += any(d.supported for d in judged(found, 4, {t: range(3) for t in weights}))
    assert wrong / rounds < 0.05 + 3 * (0.05 * 0.95 / rounds) ** 0.5


SHAPE = (("rte", 0.6, 0.02), ("mrpc", 0.85, 0.006), ("cola", 0.4, 0.01))


def test_a_large_difference_is_found_and_marked_in_the_table():
    draw = random.Random(3)
    scores = {
        v: {t: [level - 0.1 * k + draw.gauss(0, spread) for _ in range(5)] for t, level, spread in SHAPE}
        for k, v in enumerate(("lora", "dora", "vera"))
    }
    results = runs(scores)
    text = to_markdown(build(results, GLUE), GLUE)
    assert "| **lora** " in text and "Best: [1] lora" in text and text.count("**lora**") == 1
    lines = list(csv.DictReader(io.StringIO(differences_csv(build(results, GLUE)))))
    assert len(lines) == 3 and {line["supported"] for line in lines} == {"True"}
    assert {line["columns"] for line in lines} == {"mrpc cola rte"} and lines[0]["seeds"] == "0 1 2 3 4"
    weak = [r for r in results if r.seed < 3 and r.variant != "vera"]
    for result in weak:
        result.best["accuracy" if result.metric == "accuracy" else "matthews"] = draw.random()
    text = to_markdown(build(weak, GLUE), GLUE)
    assert "**lora**" not in text and "**dora**" not in text and "No winner" in text


def test_a_benchmark_without_an_average_is_compared_score_by_score():
    results = [
        run(
            "e2e", 0.5, seed, benchmark="e2e", variant=variant, variant_config={}, metric="BLEU",
            best={"epoch": 1, "BLEU": 0.5}, last={"epoch": 1, "BLEU": 0.5},
            test={"epoch": 1, "BLEU": level + seed / 100, "NIST": 8 + level + seed},
            data__sizes={"train": 9, "validation": 3, "test_inputs": 5},
        )
        for variant, level in (("lora", 0.6), ("dora", 0.5))
        for seed in range(3)
    ]  # fmt: skip
    (section,) = build(results, E2E)
    found = compare(section)
    assert [[column.key for column in c.columns] for c in found] == [["bleu"], ["nist"]]


def test_the_best_perplexity_is_the_lowest():
    results = [
        run(
            "skills", score, seed, benchmark="instruct", variant=variant, variant_config={}, metric="neg_perplexity",
            best={"epoch": 1, "neg_perplexity": score}, last={"epoch": 1, "neg_perplexity": score}, test=None,
        )
        for variant, level in (("vera", -1.9), ("lora", -1.1), ("dora", -1.4))
        for seed, score in enumerate(level + change for change in (0.0, 0.011, -0.012))
    ]  # fmt: skip
    results[0].best["neg_perplexity"] -= 0.02
    results[3].best["neg_perplexity"] += 0.015
    (section,) = build(results, INSTRUCT.seen_in(results))
    (found,) = [c for c in compare(section) if c.columns[0].title == "perplexity"]
    assert [section.rows[row].variant for row in found.rows] == ["lora", "dora", "vera"]
    assert found.less_is_better and section.rows[found.winner].variant == "lora"
    assert found.means[0] == pytest.approx(1.0953, abs=1e-3)
    assert verdict_text(section, found).endswith("below every other row.")
