"""Searches over any settings: which points are tried, which is trained, and what is shown of them."""

from __future__ import annotations

import csv

import pytest

from modules.benchmarks.glue import GLUE
from modules.comparison import search_report, tuning
from modules.reports.tables.build import build
from modules.reports.tables.rate_curves import Rule, Trials
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore
from paper_repro import compare
from variants.errors import UserError


def settings(run: RunConfig) -> dict:
    return run.options | run.training | run.trainer


def test_every_list_is_searched_wherever_it_stands(make, scored):
    row = {"options": {"r": [1, 2], "target": ["q", "q,v"]}, "trainer": {"accumulate_grad_batches": [1, 2]}}
    comparison = make(row | {"lr": [0.01, 0.02]}, common={"batch_size": [4, 8], "max_length": 32, "epochs": 1})
    runs = scored(lambda run: 0.5)
    trials, code = tuning.search(comparison, comparison.rows())
    names = ("r", "target", "lr", "batch_size", "accumulate_grad_batches")
    found = {tuple(settings(run)[name] for name in names) for run in runs}
    assert code == 0 and len(found) == len(runs) == len(trials["lora"]) == 2**5
    assert {run.seed for run in runs} == {42} and all(run.results_dir.endswith("tuning") for run in runs)


def test_the_best_point_is_trained_with_other_seeds(make, scored):
    comparison = make({"options": {"r": [1, 2, 4]}, "lr": [0.01, 0.02]}, seeds=[0, 1])
    scored(lambda run: 0.9 if (run.options["r"], run.training["lr"]) == (2, 0.01) else 0.5)
    rows = comparison.rows()
    trials, _ = tuning.search(comparison, rows)
    chosen = tuning.choose(comparison, rows, trials)
    assert chosen == {"lora": {"r": 2, "lr": 0.01}}
    runs = comparison.runs(rows[0], chosen["lora"])
    assert [(run.options["r"], run.training["lr"], run.seed) for run in runs] == [(2, 0.01, 0), (2, 0.01, 1)]


def test_a_random_search_goes_on_where_it_was(make, scored):
    lr = {"min": 1e-4, "max": 1e-1, "log": True}
    runs = scored(lambda run: run.training["lr"])
    few = make({"lr": lr}, {"search": "random", "trials": 3})
    tuning.search(few, few.rows())
    more = make({"lr": lr}, {"search": "random", "trials": 5})
    trials, code = tuning.search(more, more.rows())
    assert code == 0 and len(trials["lora"]) == len(runs) == 5, "three of them were done before"
    best = max(run.training["lr"] for run in runs)
    assert tuning.choose(more, more.rows(), trials) == {"lora": {"lr": best}}


@pytest.mark.parametrize(
    ("row", "changes", "says"),
    [
        (
            {"lr": [0.1, 0.2]},
            {"tune": None},
            "lora: lr has several values, so one is chosen, and the file lacks 'tune'",
        ),
        (
            {"options": {"r": {"min": 1, "max": 4}}},
            {},
            "lora: r is a range, which needs tune: search: random or optuna",
        ),
        ({"options": {"r": []}}, {}, "lora: options: r: an empty list"),
        ({"options": {"r": [1, 2]}}, {"seeds": [41, 42]}, "tune: seed 42 is one of the seeds that are trained"),
        ({"options": {"r": [1, 2]}}, {"tune": {"search": "random"}}, "random needs the number of trials"),
        ({"options": {"r": [1, 2]}}, {"tune": {"trials": 3}}, "a grid tries every point: leave trials out"),
        ({"options": {"r": [1, 2]}}, {"tune": {"search": "bayes"}}, "search must be one of grid, random, optuna"),
        (
            {"common": {"epochs": [1, 2]}},
            {"tasks": {"rte": {"epochs": 3}}},
            "epochs has several values, but tasks: rte",
        ),
        ({"common": {"epochs": [1, 2]}}, {"tune": {"epochs": 3}}, "epochs has several values, but tune sets it"),
        (
            {"common": {"weight_decay": [0, "x"]}},
            {},
            "lora: common: weight_decay must be a non-negative number, got 'x'",
        ),
        ({"common": {"lr": [0.1]}, "lr": 0.2}, {}, "lora: lr stands both in the row and in its common"),
        ({"options": {"r": [1, 2]}}, {"common": {"batch_size": 8}}, "lora: lacks 'lr': give it in the row"),
        ({"trainer": {"devices": 2}}, {"seeds": [0]}, "trainer: devices is for all rows"),
        ({}, {}, "neither a list to search nor seeds to train"),
        ({"options": {"r": [2, "many"]}}, {}, "variants: lora: options: lora: r must be int, not 'many'"),
        ({"lr": [0.1, 0.2]}, {"tune": {"trainer": {"limit_train_batches": 0.5}}}, "every tuning run is truncated"),
        ({"lr": [0.1, 0.2]}, {"trainer": {"limit_val_batches": 2}}, "truncated, and a truncated run has no score"),
        ({"trainer": {"limit_train_batches": [2, 3]}}, {}, "with trainer: limit_train_batches every tuning run"),
        ({"options": {"rank": [2, 4]}}, {}, "variants: lora: options: lora has no option 'rank'; it has"),
    ],
)
def test_what_is_wrong_with_a_search_is_one_line(make, row, changes, says):
    with pytest.raises(UserError, match=says) as caught:
        make(row, **changes).rows()
    assert "\n" not in str(caught.value) and "sweep.yaml: " in str(caught.value)


def test_a_file_without_a_list_needs_no_tune(make, scored):
    comparison = make({"lr": [0.02]}, seeds=[0], tune=None)
    rows = comparison.rows()
    assert tuning.search(comparison, rows) == ({}, 0) and tuning.choose(comparison, rows, {}) == {"lora": {}}
    assert [run.training["lr"] for run in comparison.runs(rows[0], {})] == [0.02]


def test_a_budget_and_a_list_of_options_are_refused_together(make):
    with pytest.raises(UserError, match="--budget picks the size for given options, and r has several values"):
        make({"options": {"r": [1, 2]}}).rows(budgets=["512"])


# ---- what is shown ------------------------------------------------------------------------------------------------


def run_command(comparison, *more: str) -> int:
    wishes = comparison.wishes
    return compare.main([
        *(str(comparison.path), "--model", wishes.model, "--data_dir", wishes.data_dir),
        *("--results_dir", wishes.results_dir, "--wandb", "off", *more),
    ])  # fmt: skip


def test_a_search_alone_shows_its_trials_best_first(make, scored, capsys):
    comparison = make({"options": {"r": [1, 2, 4]}, "lr": [0.01, 0.02]})
    scored(lambda run: run.options["r"] / 10 + run.training["lr"])
    assert run_command(comparison) == 0
    said = capsys.readouterr().out
    assert "lora: 6 settings tried (grid) on RTE, seed 42; score: best dev accuracy" in said
    table = [line.split() for line in said.splitlines() if line.split()[-1:] in (["0.01"], ["0.02"])]
    assert table[0] == ["best", "42.00", "4", "0.02"] and [line[-2] for line in table] == list("442211")
    assert "what mattered: r 100%, lr 0% (main effects" in said
    assert "r=4 is at the end of what was tried" in said and "lr=0.02 is at the end" not in said
    assert "chosen: lora r=4 lr=0.02" in said and "trial 6 of 6: lora" in said
    lines = list(csv.DictReader((comparison.results_dir / "tables" / "search.csv").open()))
    assert [(line["rank"], line["best"], line["r"], line["lr"]) for line in lines[:2]] == [
        ("1", "True", "4", "0.02"),
        ("2", "False", "4", "0.01"),
    ]
    assert (comparison.results_dir / "tables" / "search.png").stat().st_size > 10_000
    assert "| 2 | 41.00 | 4 | 0.01 |" in (comparison.results_dir / "tables" / "search.md").read_text()


def test_the_differences_are_on_the_screen(make, scored, capsys):
    rows = {"wide": {"variant": "lora", "options": {"r": 4}}, "narrow": {"variant": "lora", "options": {"r": 1}}}
    comparison = make({}, seeds=[0, 1, 2], variants=rows)
    scored(lambda run: 0.5 + run.options["r"] / 10 + run.seed / 1000)
    assert run_command(comparison) == 0
    said = capsys.readouterr().out
    assert "differences: RTE, paired by task and seed (0, 1, 2)" in said
    assert "lora r=4 - lora r=1" in said or "lora r=1 - lora r=4" in said


def test_the_rates_of_a_comparison_are_drawn_and_tabled(make, scored, capsys):
    comparison = make({"lr": [0.01, 0.02, 0.03]}, seeds=[0, 1])
    scored(lambda run: 0.5 + run.training["lr"] + run.seed / 1000)
    assert run_command(comparison) == 0
    tables = comparison.results_dir / "tables"
    assert "| 3: 0.01 to 0.03" in (tables / "glue-rates.md").read_text()
    assert (tables / "glue-rates.png").stat().st_size > 5_000 and "glue-rates.svg" in capsys.readouterr().out
    assert not (tables / "search.png").exists(), "it would show the same"


def test_diverged_trials_are_last_and_never_chosen(make, scored):
    comparison = make({"options": {"r": [1, 2]}, "lr": [0.01, 0.02]})
    scored(lambda run: float("nan") if run.training["lr"] == 0.02 else 0.5 + run.options["r"] / 10)
    trials, _ = tuning.search(comparison, comparison.rows())
    assert tuning.choose(comparison, comparison.rows(), trials) == {"lora": {"r": 2, "lr": 0.01}}
    lines = search_report.screen(comparison, comparison.rows(), trials)
    table = [line.split() for line in "\n".join(lines).splitlines() if line.split()[-1:] in (["0.01"], ["0.02"])]
    assert [(line[0], line[1]) for line in table][::3] == [("best", "70.00"), ("4", "diverged")]
    assert [line[1] for line in table[2:]] == ["diverged", "diverged"]


PARTS = {"options": {"r": [1, 2]}, "trainer": {"limit_train_batches": [2, 1.0]}}
"""Half of its trials are truncated."""


def test_truncated_trials_are_marked_and_never_chosen(make, scored, capsys):
    """However good they look."""
    comparison = make(PARTS)
    scored(lambda run: 0.9 if run.trainer["limit_train_batches"] == 2 else 0.5)
    assert run_command(comparison) == 0
    said = capsys.readouterr().out
    assert "chosen: lora r=1 trainer.limit_train_batches=1.0" in said and "90.0" not in said
    assert "4 settings tried (grid)" in said and "without a score: 2 truncated" in said
    assert "lora r=1 trainer.limit_train_batches=2: truncated" in said
    table = [line.split()[:2] for line in said.splitlines() if line.split()[-1:] in (["2"], ["1.0"])]
    assert table[:4] == [["best", "50.00"], ["2", "50.00"], ["3", "truncated"], ["4", "truncated"]]
    lines = list(csv.DictReader((comparison.results_dir / "tables" / "search.csv").open()))
    assert [(line["score"], line["fault"]) for line in lines] == [("0.5", "")] * 2 + [("", "truncated")] * 2
    assert "| 3 | truncated | 1 | 2 |" in (comparison.results_dir / "tables" / "search.md").read_text()


def test_without_any_score_nothing_is_chosen_and_the_command_fails(make, scored, capsys):
    comparison = make(PARTS, seeds=[0])
    scored(lambda run: 0.9 if run.trainer["limit_train_batches"] == 2 else float("nan"))
    assert run_command(comparison) == 1
    assert "lora is left out: no setting has a score: 2 truncated, 2 diverged" in capsys.readouterr().out
    assert not list(comparison.results_dir.glob("runs/*.json"))


def test_unequal_numbers_of_trials_are_said(make, scored):
    rows = {"lora": {"options": {"r": [1, 2, 4]}}, "dora": {"options": {"r": [1, 2]}}, "head": {}}
    comparison = make({}, variants=rows, seeds=[0])
    scored(lambda run: 0.5)
    trials, _ = tuning.search(comparison, comparison.rows())
    said = search_report.screen(comparison, comparison.rows(), trials)
    assert said[-1].startswith("not on equal terms: rows had different numbers of trials (lora 3, dora 2, head 1)")


def test_a_trial_outside_the_list_of_the_file_does_not_choose(make, scored, capsys):
    """The list moves on from 0.01, 0.02 to 0.02, 0.03: whatever 0.01 scored, only what the list has now counts."""
    by_rate = {0.01: 0.9, 0.02: 0.5, 0.03: 0.7}
    runs = scored(lambda run: by_rate[run.training["lr"]])
    for rates, best in (([0.01, 0.02], 0.01), ([0.02, 0.03], 0.03)):
        comparison = make({"lr": rates}, seeds=[0])
        assert run_command(comparison) == 0
        assert [run.training["lr"] for run in runs if run.seed == 0][-1] == best
        results, trials = ResultStore(comparison.results_dir).all(), Trials.of(comparison.results_dir)
        (curve,) = build(results, GLUE, (), trials)[0].curves
        assert curve.best == best and curve.choosing == rates
    assert sorted(curve.by_rate) == sorted(by_rate), "what was tried before stays to be seen"


def test_commands_for_parts_of_a_file_do_not_forget_each_others_rows(make, scored):
    rows = {"lora": {"lr": [0.01, 0.02]}, "dora": {"lr": [0.01, 0.02]}}
    comparison = make({}, variants=rows, seeds=[0])
    scored(lambda run: 0.5)
    for name in rows:
        tuning.search(comparison, comparison.rows([name]))
    among = Rule.of(comparison.tuning).among
    assert list(among) == ["dora", "lora"] and all(len(ids.split()) == 2 for ids in among.values())
    assert Rule.of(comparison.tuning).choosing == {run.id for run in ResultStore(comparison.tuning).all()}
