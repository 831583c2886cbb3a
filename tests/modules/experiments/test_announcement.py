"""What a command says before it trains, and a method that does not fit: found before anything starts."""

from __future__ import annotations

import pytest

from modules.benchmarks.glue import GLUE
from modules.experiments.announcement import Settled, check_variants, settings_lines, time_line
from modules.experiments.command import main
from tests.support.results import run
from tests.support.runs import planned
from variants.errors import UserError


def settled(task: str, **training) -> Settled:
    values = {"lr": 5e-4, "batch_size": 32, "epochs": 30, "max_length": 128, **training}
    return Settled("lora", task, {"r": 8, "layers": "", "rslora": False}, GLUE.settings.of(values), values)


def test_settings_name_their_tasks_where_these_differ():
    lines = settings_lines([settled("rte", epochs=80), settled("mnli"), settled("mnli")], GLUE)
    assert lines[0] == "lora: r 8"
    assert lines[1] == "training: lr 0.0005, batch_size 32, epochs 80 (RTE) 30 (MNLI), max_length 128"


def test_parameters_are_counted_on_shapes_and_a_wrong_target_is_found_there(command):
    runs = planned([*command, "--seeds", "0,1"])
    (line,) = check_variants(runs, GLUE)
    assert line.startswith("lora trains ") and line.endswith(" parameters, and the task's head")
    (wrong,) = planned(command, options={"target": "qv"})
    with pytest.raises(UserError, match="^rte lora seed 0: target='qv' matches no linear map; the nearest are"):
        check_variants([wrong], GLUE)


def test_time_is_told_by_finished_runs_of_the_same_task_backbone_and_data(command):
    runs = planned([*command, "--seeds", "0,1", "--epochs", "6"])
    place = {"backbone": dict(runs[0].backbone), "data": dict(runs[0].data) | {"sizes": {"train": 1}}}
    epochs = [{"epoch": k, "accuracy": 0.5} for k in (1, 2)]
    done = run(runs[0].task, 0.5, 0, epochs=epochs, cost={"wall_s": 20.0, "stacked": 2}, **place)
    assert time_line(runs, [done]).startswith(
        "time: about 60 s, one run after the other"
    )  # 5 s an epoch, 6 each, 2 runs
    other = run(runs[0].task, 0.5, 0, epochs=epochs, cost={"wall_s": 20.0})
    cut = run(runs[0].task, 0.5, 0, epochs=epochs, cost={"wall_s": 1.0}, trainer={"limit_train_batches": 1}, **place)
    assert "time: about 60 s" in time_line(runs, [done, cut])
    assert "--plan" in time_line(runs, [other]) and "--plan" in time_line(runs, [])


def test_no_worker_is_started_for_a_method_that_does_not_fit(command, monkeypatch, capsys):
    monkeypatch.setattr("modules.experiments.command.carry_out", lambda *_: pytest.fail("a worker was started"))
    assert main([*command, "--target", "qv"], GLUE) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: rte lora seed 0: target='qv' matches no linear map") and "recipe: default" in out


def test_a_methods_own_name_is_in_titles_and_tables(command):
    (run,) = planned(command)
    assert run.variant_name == "lora" and run.title == "rte lora seed 0"
    run.variant, run.variant_name = "my_file:MyVariant", "my-xs"
    assert run.title == "rte my-xs seed 0"
