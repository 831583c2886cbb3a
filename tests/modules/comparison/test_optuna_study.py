"""`search: optuna`: ordinary runs, resumed and shared through one journal."""

from __future__ import annotations

import importlib.util
import threading

import pytest

from modules.comparison import optuna_study, tuning
from modules.launch.claims import claim
from modules.runs.results import ResultStore
from variants.errors import UserError

SPACE = {"options": {"r": [1, 2, 4]}, "lr": {"min": 1e-4, "max": 1e-1, "log": True}}


def rule(trials: int) -> dict:
    return {"search": "optuna", "trials": trials}


def peak(run) -> float:
    """Highest at r = 4 and the smallest rate."""
    return 0.5 + run.options["r"] / 10 - run.training["lr"]


def states(comparison) -> list[str]:
    (row,) = comparison.rows()
    return [each.state.name for each in optuna_study.open_study(comparison, row).trials]


def test_trials_are_ordinary_runs_and_their_scores_are_told(make, scored):
    comparison = make(SPACE, rule(6))
    runs = scored(peak)
    trials, code = tuning.search(comparison, comparison.rows())
    assert code == 0 and len(trials["lora"]) == 6 and states(comparison) == ["COMPLETE"] * 6
    results = {result.id: result for result in ResultStore(comparison.tuning).all()}
    assert set(results) == {run.id for run in runs} and all(run.seed == 42 for run in runs)
    (row,) = comparison.rows()
    told = [each.value for each in optuna_study.open_study(comparison, row).trials]
    assert told == [peak(each.runs[0]) for each in trials["lora"]]
    (chosen,) = tuning.choose(comparison, comparison.rows(), trials).values()
    assert peak(comparison.runs(row, chosen, tuning=True)[0]) == max(map(peak, runs))


def test_the_same_file_gives_the_same_trials_and_goes_on(make, scored, tmp_path):
    runs = scored(peak)
    tuning.search(few := make(SPACE, rule(3)), few.rows())
    tuning.search(more := make(SPACE, rule(7)), more.rows())
    first = [run.id for run in runs]
    assert len(first) == 7 and states(more) == ["COMPLETE"] * 7, "three of seven were there"
    runs.clear()
    again = make(SPACE, rule(7))
    again.wishes.results_dir = str(tmp_path / "elsewhere")
    tuning.search(again, again.rows())
    assert [run.id for run in runs] == first


def test_a_changed_file_is_another_study(make, scored):
    runs = scored(peak)
    tuning.search(comparison := make(SPACE, rule(3)), comparison.rows())
    longer = {"batch_size": 8, "max_length": 32, "epochs": 2, "lr": 0.01}
    tuning.search(comparison := make(SPACE, rule(3), common=longer), comparison.rows())
    assert [run.training["epochs"] for run in runs] == [1, 1, 1, 2, 2, 2]


def test_a_failed_trial_ends_the_search_and_is_taken_up_by_the_next_command(make, scored, capsys):
    comparison = make(SPACE, rule(4))
    runs = scored(lambda run: None if len(runs) == 3 else peak(run))
    trials, code = tuning.search(comparison, comparison.rows())
    assert code == 1 and states(comparison) == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert tuning.choose(comparison, comparison.rows(), trials) == {}
    assert "lora is left out: 2 of 4 settings tried" in capsys.readouterr().out
    failed = runs[2].id
    scored(peak)
    trials, code = tuning.search(comparison, comparison.rows())
    assert code == 0 and states(comparison) == ["COMPLETE"] * 4 and failed in {e.runs[0].id for e in trials["lora"]}


@pytest.mark.parametrize("ends", ["done", "stopped"])
def test_a_trial_that_another_command_is_at_is_left_to_it_and_waited_for(make, scored, capsys, monkeypatch, ends):
    """Two commands have so many trials together; what the other leaves undone is taken up."""
    monkeypatch.setattr(optuna_study, "LOOK", 0.05)
    comparison = make(SPACE, rule(3))
    (row,) = comparison.rows()
    (theirs,) = optuna_study._ask(comparison, row, optuna_study.open_study(comparison, row), 1)
    (run,) = theirs.runs
    runs, waiting = scored(peak), threading.Event()
    monkeypatch.setattr(optuna_study, "say", lambda text: (print(text), waiting.set()))

    def other() -> None:
        with claim(run.folder):
            held.set()
            assert waiting.wait(20) and run.id not in {run.id for run in runs}
            if ends == "done":
                run.write()
                run_workers([run.id], run.results_dir)

    from modules.launch.jobs.launch import run_workers

    held = threading.Event()
    command = threading.Thread(target=other)
    command.start()
    assert held.wait(20)
    trials, code = tuning.search(comparison, [row])
    command.join()
    said = capsys.readouterr().out
    assert "waiting for a trial that another command (process " in said and "trial 3 of 3" in said
    assert code == 0 and all(each.done for each in trials["lora"]) and states(comparison) == ["COMPLETE"] * 3
    assert len(runs) == 3 and run.id in {run.id for run in runs}


def test_a_diverged_trial_counts_as_the_worst(make, scored):
    comparison = make(SPACE, rule(4))
    scored(lambda run: float("nan") if run.options["r"] == 1 else peak(run))
    trials, code = tuning.search(comparison, comparison.rows())
    ones = [each.point["r"] == 1 for each in trials["lora"]]
    assert code == 0 and any(ones) and not all(ones)
    assert states(comparison) == ["PRUNED" if one else "COMPLETE" for one in ones]
    (chosen,) = tuning.choose(comparison, comparison.rows(), trials).values()
    assert chosen["r"] != 1


def test_a_truncated_trial_has_no_score(make, scored):
    comparison = make(SPACE | {"trainer": {"limit_train_batches": [2, 1.0]}}, rule(6))
    scored(peak)
    trials, code = tuning.search(comparison, comparison.rows())
    cut = [each.point["trainer.limit_train_batches"] == 2 for each in trials["lora"]]
    assert code == 0 and any(cut) and not all(cut)
    assert states(comparison) == ["PRUNED" if one else "COMPLETE" for one in cut]
    assert [each.fault for each in trials["lora"]] == ["truncated" if one else "" for one in cut]
    (chosen,) = tuning.choose(comparison, comparison.rows(), trials).values()
    assert chosen["trainer.limit_train_batches"] == 1.0


def test_it_finds_the_peak_that_few_random_points_miss(make, scored):
    """On a narrow peak, 40 trials of TPE come nearer than the first ten, which are random."""
    space = {"lr": {"min": 1e-4, "max": 1e-1, "log": True}}
    near = lambda run: 1 / (1 + abs(run.training["lr"] - 0.003) / 0.003)  # noqa: E731
    comparison = make(space, rule(30))
    runs = scored(near)
    tuning.search(comparison, comparison.rows())
    assert max(map(near, runs)) > max(map(near, runs[:10])) and max(map(near, runs)) > 0.9


def test_without_optuna_it_is_one_line(make, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    comparison = make(SPACE, rule(2))
    with pytest.raises(UserError, match=r"needs Optuna: pip install 'lora-variants\[sweep\]'"):
        tuning.search(comparison, comparison.rows())


def test_a_plan_trains_nothing_and_says_how_many_are_to_come(make, scored, capsys):
    comparison = make(SPACE, rule(5), seeds=[0])
    runs = scored(peak)
    assert tuning.show_plan(comparison, comparison.rows()) == 0 and not runs
    assert "lora: Optuna chooses 5 more settings" in capsys.readouterr().out
    assert not comparison.results_dir.exists()


def test_a_plan_knows_what_was_asked_before_and_leaves_the_journal_as_it_is(make, scored, capsys):
    comparison = make(SPACE, rule(3), seeds=[0])
    scored(peak)
    tuning.search(comparison, comparison.rows())
    whole, journal = make(SPACE, rule(5), seeds=[0]), comparison.tuning / "optuna.journal"
    before = journal.read_bytes()
    assert tuning.show_plan(whole, whole.rows()) == 0
    assert "lora: Optuna chooses 2 more settings" in capsys.readouterr().out
    other = make(SPACE | {"options": {"target": "q"}}, rule(4), seeds=[0])  # a study that the journal does not have
    assert tuning.show_plan(other, other.rows()) == 0
    assert "lora: Optuna chooses 4 more settings" in capsys.readouterr().out and journal.read_bytes() == before


def test_the_extra_is_installed_with_the_tests():
    assert importlib.util.find_spec("optuna")
