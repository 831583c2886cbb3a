"""Curves of trials: which belong together, their best rate beside LoRA's, and what they cost."""

from __future__ import annotations

import csv
import io
import json

import pytest

from modules.benchmarks.glue import GLUE
from modules.reports.formats.markdown import to_markdown
from modules.reports.formats.rates import rates_csv, rates_markdown
from modules.reports.tables.build import build
from modules.reports.tables.rate_curves import RULE, TUNING, Rule, Trials, nearest_reference, ratio
from modules.runs.results import ResultStore
from tests.support.results import run as result_of
from variants.errors import UserError

BY_METRIC = Rule()


def trial(variant, lr, seed=0, accuracy=0.7, task="rte", **changes):
    """A trial with two epochs, of which the first has the lower loss and the second the better metric."""
    epochs = [{"epoch": 1, "accuracy": accuracy - 0.1, "loss": lr}, {"epoch": 2, "accuracy": accuracy, "loss": 1.0}]
    cost = {"wall_s": 6.0, "steps": 100, "step_ms": 5.0, "peak_memory_mb": 90.0}
    changes = {"epochs": epochs, "training__lr": lr, "cost": cost} | changes
    return result_of(task, variant=variant, seed=seed, **changes)


def section_of(trials, rule=BY_METRIC, own=None):
    return build(own or [result_of()], GLUE, (), Trials(trials, rule))[0]


def grid(variant, scores, **changes):
    """Trials of two seeds at each rate, whose mean is the score there."""
    return [
        trial(variant, lr, seed, score + (0.02 if seed else -0.02), **changes)
        for lr, score in scores.items()
        for seed in (0, 1)
    ]


def test_a_curve_has_the_mean_of_its_tasks_and_seeds_at_each_rate():
    both = grid("lora", {1e-3: 0.6, 3e-3: 0.8}) + grid("lora", {1e-3: 0.5, 3e-3: 0.5}, task="mrpc")
    (curve,) = section_of(both).curves
    assert [curve.score(rate) for rate in curve.by_rate] == pytest.approx([55.0, 65.0])
    assert curve.by_seed(3e-3) == pytest.approx({0: 63.0, 1: 67.0})
    assert curve.best == 3e-3 and not curve.at_an_end, "of two rates each is an end"
    assert (curve.seconds, curve.steps, len(curve.runs)) == (48.0, 800, 8)


def test_of_a_search_that_is_not_finished_only_tasks_count_that_every_method_has():
    """On CoLA's way up LoRA has one rate of two, DoRA none: means over it would compare unlike tasks."""
    done = grid("lora", {1e-3: 0.6, 3e-3: 0.8}) + grid("dora", {1e-3: 0.7, 3e-3: 0.5})
    begun = grid("lora", {1e-3: 0.99}, task="mrpc")
    curves = section_of(done + begun).curves
    assert [(curve.variant, curve.best, curve.score(curve.best)) for curve in curves] == [
        ("lora", 3e-3, pytest.approx(80.0)),
        ("dora", 1e-3, pytest.approx(70.0)),
    ]
    assert {run.task for curve in curves for run in curve.runs} == {"rte"}


def test_seeds_that_were_trained_at_once_share_their_time():
    stacked = [trial("lora", lr, seed, cost={"wall_s": 6.0, "stacked": 3}) for lr in (0.1, 0.2) for seed in range(3)]
    assert section_of(stacked).curves[0].seconds == pytest.approx(12.0)


def test_the_rule_may_be_the_lowest_loss():
    """The first epoch has the rate as its loss, and the better metric comes with the worse loss."""
    (curve,) = section_of(grid("lora", {0.1: 0.5, 0.3: 0.9}), Rule("loss")).curves
    assert curve.best == 0.1 and curve.score(0.1) == pytest.approx(0.1)


def test_what_differs_beside_the_rate_is_another_curve():
    options = {"target": "attn-qv", "r": 2}
    runs = grid("lora", {0.1: 0.5, 0.2: 0.6}) + grid("lora", {0.1: 0.7, 0.2: 0.6}, variant_config=options)
    runs += grid("lora", {0.1: 0.5, 0.2: 0.4}, training={"lr": 0.1, "weight_decay": 0.5})[:2]  # one rate: no curve
    curves = section_of(runs).curves
    assert [curve.best for curve in curves] == [0.1, 0.2] and {curve.label for curve in curves} == {
        "target=attn-qv r=2", "target=attn-qv r=8 alpha=16",
    }  # fmt: skip


def test_trials_of_another_backbone_or_data_are_left_out():
    assert not section_of(grid("lora", {0.1: 0.5, 0.2: 0.6}, backbone__hash="other")).curves
    assert not section_of(grid("lora", {0.1: 0.5, 0.2: 0.6}, data__hash="other")).curves


def test_a_rate_at_which_a_run_diverged_is_not_the_best():
    runs = grid("lora", {0.1: 0.5, 0.2: 0.6, 0.3: 0.9})
    runs[-1].cost["diverged"] = True
    (curve,) = section_of(runs).curves
    assert curve.best == 0.2 and curve.without_score == [0.3] and curve.score(0.3) is None
    del runs[-1]
    (curve,) = section_of(runs).curves
    assert curve.best == 0.2 and not curve.whole(0.3), "a rate with a seed less is not compared with whole ones"


def test_a_rate_is_a_multiple_of_the_best_of_the_lora_of_about_its_size():
    small = grid("lora", {0.01: 0.9, 0.1: 0.5}, parameters__adapter=1000, variant_config={"r": 1})
    large = grid("lora", {0.01: 0.5, 0.1: 0.9}, parameters__adapter=9000, variant_config={"r": 9})
    other = grid("pissa", {0.001: 0.8, 0.01: 0.7}, parameters__adapter=8000, variant_config={"r": 8})
    curves = section_of(small + large + other).curves
    pissa = next(curve for curve in curves if curve.variant == "pissa")
    assert nearest_reference(pissa, curves).parameters == 9000 and ratio(pissa, curves) == pytest.approx(0.01)


def test_the_table_has_ratio_published_figure_and_cost(tmp_path):
    runs = grid("lora", {0.01: 0.5, 0.1: 0.9, 1.0: 0.1}) + grid("pissa", {0.001: 0.5, 0.01: 0.9, 0.1: 0.1})
    text = rates_markdown([section_of(runs, own=[result_of(), runs[2]])])
    (line,) = (line for line in text.splitlines() if line.startswith("| pissa"))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[2:] == ["3: 0.001 to 0.1", "0.01", "90.00", "1/10", "1/10", "", "6", "36", "600", "5.0", "90"]
    assert "1 of the 12 trials are runs of that table too" in text and "2602.04998" in text
    lines = list(csv.DictReader(io.StringIO(rates_csv([section_of(runs)]))))
    assert len(lines) == len(runs) and {line["run"] for line in lines} == {run.id for run in runs}
    assert {line["score"] for line in lines if line["lr"] == "0.1" and line["variant"] == "lora"} == {"88.0", "92.0"}


def test_unequal_numbers_of_trials_are_said():
    text = rates_markdown([section_of(grid("lora", {0.1: 0.5, 0.2: 0.6}) + grid("dora", {0.1: 1, 0.2: 1, 0.3: 1}))])
    assert "methods had 4 to 6 trials" in text


def test_the_table_of_scores_says_so_too():
    trials = grid("lora", {0.1: 0.5, 0.2: 0.6}) + grid("dora", {0.1: 1, 0.2: 1, 0.3: 1})
    assert "- Not on equal terms: methods had 4 to 6 trials" in to_markdown([section_of(trials)], GLUE)
    assert "equal terms" not in to_markdown([section_of(trials[:8])], GLUE)


def test_rates_that_a_list_no_longer_has_choose_nothing_and_are_counted_apart():
    """DoRA's list was 0.1, 0.2 and is 0.2, 0.3: what 0.1 scored stays in the picture and in the cost."""
    lora, dora = grid("lora", {0.1: 0.5, 0.2: 0.6}), grid("dora", {0.1: 0.9, 0.2: 0.4, 0.3: 0.6})
    rule = Rule(None, {"dora": " ".join(run.id for run in dora[2:])})  # of LoRA's the folder says nothing: all choose
    section = section_of(lora + dora, rule)
    curves = {curve.variant: curve for curve in section.curves}
    assert (curves["dora"].best, curves["lora"].best) == (0.3, 0.2) and len(curves["dora"].by_rate) == 3
    text = rates_markdown([section])
    assert "| 4 of 6 " in text and "2 of the trials are at rates that a row's list had before" in text
    assert "equal terms" not in text, "each has been chosen from four"


def test_trials_are_read_with_their_rule(tmp_path):
    assert Trials.of(tmp_path) is None
    store = ResultStore(tmp_path / TUNING)
    store.write(trial("lora", 0.1))
    assert Trials.of(tmp_path).rule == Rule()
    (tmp_path / TUNING / RULE).write_text(json.dumps({"metric": "loss"}))
    assert Trials.of(tmp_path).rule == Rule("loss") and len(Trials.of(tmp_path).runs) == 1
    (tmp_path / TUNING / RULE).write_text('{"metrics": 1}')
    with pytest.raises(UserError, match=r"rule.json"):
        Trials.of(tmp_path)
