"""What W&B has of runs: the real client against a server of the tests, and offline."""

from __future__ import annotations

import json
import math
import shlex

import pytest

from modules.runs.results import ResultStore
from modules.training.lightning_module import FineTuner
from modules.training.loggers.wandb_run import Place
from modules.training.run import run as train
from modules.training.run import run_seeds
from tests.support.runs import planned
from tests.support.wandb_server import SentRun, WandbServer, client_of


@pytest.fixture(scope="module")
def flags(tiny_model, tiny_tsv, tmp_path_factory) -> list[str]:
    """A run of 12 steps in two epochs."""
    folder = tmp_path_factory.mktemp("wandb-runs") / "results"
    return shlex.split(
        f"--model {tiny_model} --data_dir {tiny_tsv} --results_dir {folder} --batch_size 8 --epochs 2 --tasks rte "
        "--trainer.accelerator cpu --trainer.log_every_n_steps 2 --wandb online"
    )


@pytest.fixture(scope="module")
def server(flags, tmp_path_factory):
    """What has come of AdaLoRA with artifacts, and of LoRA with two stacked seeds."""
    with WandbServer() as server, client_of(server.environment, tmp_path_factory.mktemp("client")):
        adalora = [*flags, "--seeds", "0", "--wandb_artifacts", "true", "--wandb_tags", "mine,second"]
        adalora += ["--wandb_notes", "why", "--wandb_project", "own", "--head_lr", "0.01", "--gradient_clip_val", "1"]
        server.results = [train(planned([*adalora, "--init_r", "3", "--target_r", "2"], "adalora")[0], live=False)]
        server.results += run_seeds(planned([*flags, "--seeds", "1,2", "--r", "2"], "lora"), live=False)
        yield server


@pytest.fixture
def sent(server) -> SentRun:
    return server.runs[server.results[0].wandb_id]


def test_one_row_for_a_logged_step(sent):
    rows = sent.having("train/loss")
    assert [row["trainer/global_step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    for row in rows:
        assert {"train/step_ms", "train/tokens_per_s", "lr/adapter", "lr/head"} <= set(row)
        assert row["train/step_ms"] > 0 and row["train/tokens_per_s"] > 0
    assert not [key for row in sent.rows for key in row if key.startswith("lr-")]
    assert all(row["lr/head"] > row["lr/adapter"] for row in rows[:-1])  # its biases are of the head too
    assert not [row for row in sent.rows if row.get("lr/adapter-2")]


def test_one_row_for_an_epoch_with_the_score_and_the_best_so_far(server, sent):
    result, rows = server.results[0], sent.having("dev/score")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["dev/score"] for row in rows] == [figures["accuracy"] for figures in result.epochs]
    assert [row["dev/accuracy"] for row in rows] == [row["dev/score"] for row in rows]
    best = [max(figures["accuracy"] for figures in result.epochs[: k + 1]) for k in range(2)]
    assert [row["best/score"] for row in rows] == best
    assert all({"dev/loss", "train/loss_epoch", "variant/mean_rank", "variant/budget"} <= set(row) for row in rows)


def test_ranks_are_a_heat_map_and_a_table_and_no_loose_scalars(server, sent):
    assert not [key for row in sent.rows for key in row if "rank/" in key]
    (picture,) = sent.having("layers/rank_map")[-1:]
    assert picture["layers/rank_map"]["_type"] == "image-file"
    (table,) = sent.having("layers/rank")
    content = json.loads(server.uploads[table["layers/rank"]["path"]])
    assert content["columns"] == ["epoch", "place", "value"]
    ranks = [value for epoch, _, value in content["data"] if epoch == 2]
    assert sum(ranks) == server.results[0].variant_metrics["budget"]


def test_norms_by_layer_and_role(sent):
    row = sent.having("dev/score")[-1]
    moved = {key for key in row if key.startswith("update_norm/")}
    assert {"update_norm/0/q", "update_norm/0/v", "update_norm/all"} <= moved
    assert {key.replace("update", "grad", 1) for key in moved} <= set(row)
    assert all(row[key] >= 0 and math.isfinite(row[key]) for key in moved)
    assert row["update_norm/all"] > 0 and 0 < row["grad_norm/all"] <= 1.001  # clipped at 1


def test_axes_and_what_the_summary_shows(sent):
    defined = sent.defined
    assert defined["train/*"][0] == defined["lr/*"][0] == "trainer/global_step"
    for key in ("dev/*", "best/*", "variant/*", "update_norm/*", "train/loss_epoch"):
        assert defined[key][0] == "epoch", key
    assert [defined[f"dev/{name}"][1] for name in ("score", "accuracy", "loss")] == ["max", "max", "min"]
    assert all(defined[key][2] for key in ("epoch", "trainer/global_step", "update_norm/*"))


def test_the_summary_has_score_cost_and_parameters(server, sent):
    result, summary = server.results[0], sent.summary
    assert summary["best/score"] == result.best["accuracy"] and summary["best/epoch"] == result.best["epoch"]
    for name in ("step_ms", "tokens_per_s", "peak_memory_mb", "wall_s", "diverged"):
        assert summary[f"cost/{name}"] == result.cost[name]
    assert {f"parameters/{k}": v for k, v in result.parameters.items()}.items() <= summary.items()
    assert summary["diverged"] is False and sent.exit_code == 0
    assert summary["dev/score"] == {"max": result.best["accuracy"]}


def test_the_columns_of_a_run(server, sent):
    config = {key: value for key, value in sent.config.items() if key != "_wandb"}
    assert not [key for key, value in config.items() if value in (None, "", [], {})]
    wanted = {"variant": "adalora", "task": "rte", "protocol": "default", "seed": 0, "init_r": 3, "size": 3}
    wanted |= {"batch_size": 8, "trainer.log_every_n_steps": 2, "overrides.epochs": 2, "compile": "auto"}
    assert wanted.items() <= config.items()
    assert len(config["data.hash"]) == len(config["backbone.hash"]) == 12
    assert config["row"].startswith("adalora ") and "init_r=3" in config["row"] and config["device"]
    words = shlex.split(config["command"])
    assert words[:2] == ["python", "paper_repro/glue.py"] or words[1].endswith("paper_repro/glue.py")
    (again,) = planned(words[2:], "adalora")
    assert again.id == server.results[0].id  # the command is the run's own


def test_name_group_tags_project(server, sent):
    settings = sent.settings
    assert settings["displayName"] == f"rte-adalora-s0-{server.results[0].id[:6]}"
    assert settings["jobType"] == "train" and settings["project"] == "own" and settings["notes"] == "why"
    assert settings["tags"][-2:] == ["mine", "second"] and "default" in settings["tags"]
    assert settings["groupName"].startswith("rte adalora ") and len(settings["groupName"]) <= 128


def test_adapters_are_artifacts_with_their_base(server):
    adapters = [a for a in server.artifacts if a["artifactTypeName"] == "adapter"]
    found = {each["alias"]: a for a in adapters for each in a["aliases"]}
    assert set(found) == {"best", "last", "latest"}
    facts = json.loads(found["best"]["metadata"])
    result = server.results[0]
    assert (facts["base"], facts["base_hash"]) == (result.backbone["name"], result.backbone["hash"])
    assert facts["run"] == result.id and facts["accuracy"] == result.best["accuracy"]
    assert "adapter.safetensors" in server.uploads


def test_stacked_seeds_are_runs_of_their_own_in_one_group(server):
    results = server.results[1:]
    runs = [server.runs[result.wandb_id] for result in results]
    assert len({id(run) for run in runs}) == 2 and len({run.settings["groupName"] for run in runs}) == 1
    assert [run.config["seed"] for run in runs] == [1, 2] and runs[0].config["stacked"] == 2
    for run, result in zip(runs, results, strict=True):
        assert [row["trainer/global_step"] for row in run.having("train/loss")] == [2, 4, 6, 8, 10, 12]
        assert [row["dev/score"] for row in run.having("dev/score")] == [e["accuracy"] for e in result.epochs]
        assert [row["train/loss_epoch"] for row in run.having("dev/score")] == [e["train_loss"] for e in result.epochs]
        assert run.exit_code == 0 and run.summary["best/score"] == result.best["accuracy"]
    losses = [[row["train/loss"] for row in run.having("train/loss")] for run in runs]
    assert losses[0] != losses[1]
    norms = [run.having("dev/score")[-1]["update_norm/all"] for run in runs]
    assert norms[0] != norms[1] and min(norms) > 0


def test_groups_hold_one_configuration(flags):
    from modules.training.loggers.columns import group

    def of(*more: str) -> str:
        return group(planned([*flags, "--seeds", "0", *more], "lora")[0])

    assert of() == group(planned([*flags, "--seeds", "5"], "lora")[0])
    different = [
        of(),
        of("--r", "2"),
        of("--lr", "0.01"),
        of("--target", "q"),
        of("--trainer.limit_train_batches", "3"),
    ]
    assert len(set(different)) == len(different)


def test_a_diverged_run_calls_and_does_not_end_as_finished(flags, tmp_path, monkeypatch):
    own = FineTuner.epoch_figures
    monkeypatch.setattr(FineTuner, "epoch_figures", lambda self: own(self) | {"train_loss": math.nan})
    with WandbServer() as server, client_of(server.environment, tmp_path):
        result = train(planned([*flags, "--seeds", "7", "--results_dir", str(tmp_path)], "head")[0], live=False)
    sent = server.runs[result.wandb_id]
    assert sent.exit_code == 1 and "diverged" in sent.settings["tags"] and len(server.alerts) == 1
    assert "diverged" in server.alerts[0]["title"]
    assert sent.summary["diverged"] is True and "best/score" not in sent.summary
    assert not sent.having("dev/score")


def test_a_server_that_falls_silent_leaves_the_figures_on_this_disk(flags, tmp_path, capsys):
    """It is asked once: the second run does not wait for it again."""
    import time

    runs = planned([*flags, "--seeds", "8,9", "--epochs", "1", "--results_dir", str(tmp_path)], "head")
    with WandbServer(mute=True) as server, client_of(server.environment, tmp_path):
        begin = time.perf_counter()
        ids = [train(run, live=False).wandb_id for run in runs]
        assert time.perf_counter() - begin < 30
    printed = capsys.readouterr().err
    assert printed.count("W&B: no run could begin online") == 1 and "kept on this disk" in printed
    for id in ids:
        assert list((tmp_path / "wandb").glob(f"offline-run-*-{id}/*.wandb"))


def test_offline_keeps_the_run_and_its_id(flags, tmp_path):
    (run,) = planned([*flags, "--seeds", "3", "--wandb", "offline", "--results_dir", str(tmp_path)], "head")
    with client_of({}, tmp_path):
        result = train(run, live=False)
    assert ResultStore(run.results_dir).read(run.id).wandb_id == result.wandb_id
    place = Place.read(run.folder)
    assert place.id == result.wandb_id and not place.url
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{result.wandb_id}"))


def test_a_broken_wandb_does_not_break_the_run(flags, tmp_path, monkeypatch):
    import wandb

    def broken(*args, **kwargs):
        raise RuntimeError("no dashboard today")

    (run,) = planned([*flags, "--seeds", "4", "--wandb", "offline", "--results_dir", str(tmp_path)], "head")
    with client_of({}, tmp_path):
        monkeypatch.setattr(wandb, "init", broken)
        with pytest.warns(UserWarning, match="Weights & Biases is off for this run: no dashboard today"):
            assert train(run, live=False).wandb_id is None


def test_a_logger_that_fails_later_is_left_out(flags, tmp_path, monkeypatch):
    from modules.training.loggers.wandb_run import WandbRun

    def broken(*args, **kwargs):
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(WandbRun, "log", broken)
    (run,) = planned([*flags, "--seeds", "4", "--wandb", "offline", "--results_dir", str(tmp_path)], "head")
    with (
        client_of({}, tmp_path),
        pytest.warns(UserWarning, match="Weights & Biases stopped working, the run goes on: the disk is gone"),
    ):
        assert train(run, live=False).best["epoch"]
