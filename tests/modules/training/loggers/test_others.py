"""The loggers beside W&B hold the same keys."""

from __future__ import annotations

import csv
import json
import sqlite3

import pytest

from modules.training.run import run as train
from modules.training.run import run_seeds
from tests.support.runs import planned

STEP = {"train/loss", "train/step_ms", "train/tokens_per_s", "lr/adapter", "lr/head"}
EPOCH = {"epoch", "train/loss_epoch", "dev/loss", "dev/accuracy", "dev/score", "best/score", "update_norm/all"}
END = {"best/score", "cost/step_ms", "parameters/adapter", "diverged"}


def trained(command, logger: str, *more: str):
    flags = [*command, "--logger", logger, "--trainer.log_every_n_steps", "3", "--r", "2", *more]
    (run,) = planned(flags, "lora")
    return run, train(run, live=False)


def test_csv_and_tensorboard_at_once(command, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, result = trained(command, "csv,tensorboard")
    assert result.wandb_id is None
    with open(run.folder / "csv" / "metrics.csv", newline="") as file:
        rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    steps = [row for row in rows if "train/loss" in row]
    assert [int(row["step"]) for row in steps] == [3, 6, 9, 12] and set(steps[0]) >= STEP
    epochs = [row for row in rows if "dev/score" in row]
    assert len(epochs) == 2 and set(epochs[0]) >= EPOCH and set(rows[-1]) >= END
    (folder,) = (tmp_path / "results" / "tensorboard").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert set(events.Tags()["scalars"]) >= STEP | EPOCH | END
    assert [event.value for event in events.Scalars("dev/score")] == [
        pytest.approx(figures["accuracy"]) for figures in result.epochs
    ]
    assert events.Tags()["images"]  # the heat maps


def test_stacked_runs_log_their_own_rates(command):
    """As each does alone; the head's may be one for all."""

    def rates(runs) -> list[list[tuple[float, float]]]:
        found = []
        for run in runs:
            with open(run.folder / "csv" / "metrics.csv", newline="") as file:
                steps = [row for row in csv.DictReader(file) if row["train/loss"]]
            found.append([(float(row["lr/adapter"]), float(row["lr/head"])) for row in steps])
        return found

    flags = [*command, "--logger", "csv", "--trainer.log_every_n_steps", "3", "--r", "2", "--head_lr", "0.01"]
    runs = [run for lr in ("0.001", "0.004") for run in planned([*flags, "--lr", lr])]
    run_seeds(runs, live=False)
    together = rates(runs)
    for run in runs:
        train(run, live=False)
    for one, other in zip(together, rates(runs), strict=True):
        assert len(one) == len(other) == 4 and one == [pytest.approx(pair) for pair in other]
    for low, high in zip(*together, strict=True):
        assert high[0] == pytest.approx(4 * low[0]) and high[1] == low[1]


def test_a_csv_file_of_a_run_that_goes_on_keeps_the_lines_before(command):
    run, _ = trained(command, "csv")
    before = (run.folder / "csv" / "metrics.csv").read_text()
    train(run, live=False)
    assert (run.folder / "csv" / "metrics-1.csv").read_text() == before
    assert (run.folder / "csv" / "metrics.csv").is_file()


@pytest.mark.slow
def test_trackio(command, tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    from trackio import sqlite_storage, utils

    for module in (utils, sqlite_storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    _, result = trained(command, "trackio", "--wandb_project", "own")
    (file,) = (tmp_path / "trackio").glob("own.db")
    with sqlite3.connect(file) as base:
        rows = [json.loads(text) for (text,) in base.execute("select metrics from metrics order by id")]
    scores = [row["dev/score"] for row in rows if "dev/score" in row]
    assert scores == [figures["accuracy"] for figures in result.epochs]
    assert [set(row) >= STEP for row in rows].count(True) == 4
    assert any(set(row) >= END for row in rows)
