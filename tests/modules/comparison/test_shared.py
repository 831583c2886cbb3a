"""Trials that are runs of the comparison: trained once, and taken over."""

from __future__ import annotations

import pytest

from modules.comparison import tuning
from modules.comparison.file import only
from modules.comparison.shared import give_back, take_over
from modules.runs.results import ResultStore
from tests.support.results import run as result_of
from variants.errors import UserError

SHARED = {"common": {"batch_size": 8, "max_length": 32, "epochs": 1, "select": "split"}, "seeds": [0, 1]}


def search(comparison):
    """Search, choose, and carry out the runs of the comparison, as the command does."""
    rows = comparison.rows()
    trials, _ = tuning.search(comparison, rows)
    chosen = tuning.choose(comparison, rows, trials)
    runs = [run for row in rows for run in comparison.runs(row, chosen[row.name])]
    comparison.leave_out(runs, [run for own in trials.values() for each in own for run in each.runs])
    assert comparison.carry_out(runs, comparison.results_dir) == 0
    return chosen


def test_the_runs_of_the_chosen_rate_are_its_trials(make, scored):
    given = scored(lambda run: 1 - run.training["lr"])
    comparison = make({"lr": [0.1, 0.2, 0.3]}, {"seed": None, "seeds": [0, 1]}, **SHARED)
    assert search(comparison) == {"lora": {"lr": 0.1}}
    assert len(given) == 6, "nothing is trained a second time"
    own = ResultStore(comparison.results_dir).all()
    assert [(run.training["lr"], run.seed) for run in sorted(own, key=lambda run: run.seed)] == [(0.1, 0), (0.1, 1)]


def test_another_seed_or_schedule_is_another_run(make, scored):
    given = scored(lambda run: 1 - run.training["lr"])
    comparison = make({"lr": [0.1, 0.2]}, {"seed": None, "seeds": [0, 1], "epochs": 2}, **SHARED)
    search(comparison)
    assert len(given) == 4 + 2, "trials of two epochs are no runs of one"


def test_when_the_choice_changes_its_runs_do(make, scored):
    """Part of the tasks chose one rate, the whole of them another: the table has a single row."""
    scored(lambda run: run.training["lr"] if run.task == "rte" else -9 * run.training["lr"])
    changes = SHARED | {"tasks": {"rte": {}, "mrpc": {}}}
    comparison = make({"lr": [0.1, 0.2]}, {"seed": None, "seeds": [0, 1], "tasks": ["rte", "mrpc"]}, **changes)
    whole, comparison.content = comparison.content, only(comparison.content, ["rte"], comparison.path)
    assert search(comparison) == {"lora": {"lr": 0.2}}
    comparison.content, comparison._planned = whole, {}
    assert search(comparison) == {"lora": {"lr": 0.1}}
    own = ResultStore(comparison.results_dir).all()
    assert {run.training["lr"] for run in own} == {0.1} and {run.task for run in own} == {"rte", "mrpc"}
    assert len(ResultStore(comparison.tuning).all()) == 8, "no trial is lost"


def test_seeds_may_be_shared_where_other_rows_are_scored_than_choose(make):
    rule = {"seed": None, "seeds": [0, 5]}
    with pytest.raises(UserError, match=r"seed 0 is one of the seeds that are trained.*common: \{select: split\}"):
        make({"lr": [0.1, 0.2]}, rule, seeds=[0, 1])
    make({"lr": [0.1, 0.2]}, rule, **SHARED)


@pytest.mark.parametrize("rule", [{"seed": None}, {"seeds": [1]}, {"seed": None, "seeds": []}])
def test_tuning_has_a_seed_or_seeds(make, rule):
    with pytest.raises(UserError, match="either a seed or a list of seeds"):
        make({"lr": [0.1, 0.2]}, rule)


def test_a_part_of_the_tasks(make):
    comparison = make({"lr": [0.1, 0.2]}, tasks={"rte": {}, "sst2": {}})
    part = only(comparison.content, ["rte"], comparison.path)
    assert set(part.tasks) == {"rte"} and part.tune.tasks == ["rte"]
    with pytest.raises(UserError, match="has no task 'cola'; it has rte, sst2"):
        only(comparison.content, ["cola"], comparison.path)
    with pytest.raises(UserError, match="settings are chosen by rte: name one of them"):
        only(comparison.content, ["sst2"], comparison.path)


def test_a_run_is_taken_over_with_its_adapter_and_given_back(tmp_path):
    trials, store = ResultStore(tmp_path / "tuning"), ResultStore(tmp_path)
    result = result_of()
    assert not take_over(result.id, trials, store)
    adapter = trials.runs / result.id / "best" / "adapter.bin"
    adapter.parent.mkdir(parents=True)
    adapter.write_text("weights")
    trials.write(result)
    assert take_over(result.id, trials, store) and not take_over(result.id, trials, store)
    assert store.read(result.id).score == result.score
    assert (store.runs / result.id / "best" / "adapter.bin").read_text() == "weights"
    give_back({result.id}, trials, store)
    assert not store.done(result.id) and not (store.runs / result.id).exists()
    assert trials.done(result.id) and adapter.read_text() == "weights"
    alone = result_of()
    store.write(alone)
    give_back({alone.id}, trials, store)
    assert store.done(alone.id), "what is no trial stays"
