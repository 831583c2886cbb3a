"""What a command does for dashboards: one mode for all runs, ids under an agent, the table, where to look."""

from __future__ import annotations

import json
import os
import shlex

import pytest

from modules.benchmarks.glue import GLUE
from modules.experiments.command import main
from modules.experiments.dashboards import decoded, end, where_to_look
from modules.experiments.wishes import Wishes
from modules.runs.results import ResultStore
from modules.training.loggers.columns import group
from modules.training.loggers.wandb_run import Place
from paper_repro import compare
from tests.support.runs import planned
from tests.support.wandb_server import WandbServer, client_of
from variants.errors import UserError


def online(command: list[str], *more: str) -> list[str]:
    position = command.index("--wandb")
    return [*command[:position], "--wandb", "online", *command[position + 2 :], "--variant", "head", *more]


@pytest.mark.slow
def test_under_an_agent_the_first_run_has_its_id_and_the_others_their_own(
    command, tmp_path, in_this_process, capfd, monkeypatch
):
    """Two seeds of one command overwrote each other. One with nothing left to train gives the sweep its figure too."""
    agent = {"WANDB_RUN_ID": "agentrun1", "WANDB_SWEEP_ID": "sweep1", "WANDB_PROJECT": "swept", "WANDB_ENTITY": "me"}
    flags = online(command, "--seeds", "0,1", "--epochs", "1")
    with WandbServer() as server:
        with client_of(server.environment | agent, tmp_path):
            assert main(flags, GLUE) == 0
            assert "WANDB_RUN_ID" not in os.environ
        trained = [run for run in server.runs.values() if run.settings.get("jobType") == "train"]
        assert [run.settings.get("sweep") for run in trained] == ["sweep1", None]
        assert list(server.runs)[0] == "agentrun1" and len(server.runs) == 2  # a trial leaves no table
        assert {run.settings["project"] for run in trained} == {"swept"}
        results = ResultStore(tmp_path / "results").all()
        assert {result.wandb_id for result in results} == {id for id, run in server.runs.items() if run in trained}
        best = next(result.best["accuracy"] for result in results if result.wandb_id == "agentrun1")
        assert server.runs["agentrun1"].summary["best/score"] == best
        out = capfd.readouterr().out
        assert out.count("W&B: ") == 1 and f"W&B: {server.url}/me/" in out

        with client_of(server.environment | agent | {"WANDB_RUN_ID": "agentrun2"}, tmp_path):
            assert main(flags, GLUE) == 0
        again = server.runs["agentrun2"]
        assert again.settings["sweep"] == "sweep1" and isinstance(again.summary["best/score"], float)


@pytest.mark.slow
def test_a_command_leaves_its_table_with_published_rows_and_says_where_to_look(
    command, tmp_path, in_this_process, capfd, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    position = command.index("--wandb")
    flags = [*command[:position], "--wandb", "offline", *command[position + 2 :], "--epochs", "1", "--r", "2"]
    with client_of({}, tmp_path):
        assert main(flags, GLUE) == 0
    out = capfd.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith("W&B, offline: wandb leet wandb   upload: "))
    folders = shlex.split(line.partition("wandb sync ")[2])
    assert len(folders) == 2 and all((tmp_path / folder).is_dir() for folder in folders)
    (file,) = [
        f for folder in folders for f in (tmp_path / folder).rglob("*.table.json") if f.name.startswith("table_")
    ]
    content = json.loads(file.read_text())
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    assert {row["kind"] for row in rows} == {"ours", "published"}
    ours = next(row for row in rows if row["kind"] == "ours")
    result = ResultStore(tmp_path / "results").all()[0]
    assert ours["value"] == pytest.approx(100 * result.best["accuracy"], abs=0.01) and ours["run_ids"] == result.id


def test_where_to_look_is_one_line_for_each_logger(command):
    (run,) = planned([*command, "--logger", "wandb,csv,tensorboard", "--wandb", "offline"], "head")
    url = "http://127.0.0.1/me/p/runs/"
    assert where_to_look(run, [Place("a", "x", f"{url}a")])[0] == f"W&B: {url}a"
    assert (
        where_to_look(run, [Place("a", "x", f"{url}a"), Place("b", "x", f"{url}b")])[0] == "W&B: http://127.0.0.1/me/p"
    )
    folders = [Place(str(k), os.path.abspath(f"wandb/offline-run-{k}")) for k in range(4)]
    assert where_to_look(run, folders)[0].endswith("wandb sync wandb/offline-run-*")
    assert [line.partition(":")[0] for line in where_to_look(run, [])] == ["csv", "tensorboard"]


def test_where_nothing_was_left_to_do_there_is_nowhere_new_to_look(command, capsys):
    runs = planned([*command, "--logger", "csv", "--seeds", "0,1"], "head")
    end(runs, [], GLUE)
    assert capsys.readouterr().out == ""
    end(runs, runs[1:], GLUE)
    assert capsys.readouterr().out.startswith("csv: ")


def test_a_decoding_is_a_run_of_its_own_in_the_group_of_the_decoded_one(command, tmp_path):
    (run,) = planned([*command, "--wandb_tags", "mine"], "head")
    with WandbServer() as server, client_of(server.environment, tmp_path):
        scores = {"BLEU": 0.5, "METEOR": None}
        assert decoded(run.folder, None, {"beams": 1}, scores, [("an output", "a reference")]) == []  # the run's is off
        (line,) = decoded(run.folder, "online", {"beams": 1}, scores, [("an output", "a reference")])
    (sent,) = server.runs.values()
    assert line.startswith("W&B: ") and sent.settings["jobType"] == "decode" and "mine" in sent.settings["tags"]
    assert sent.settings["groupName"] == group(run) and sent.config["decode.beams"] == 1
    assert sent.summary["test/BLEU"] == 0.5 and "test/METEOR" not in sent.summary and sent.exit_code == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--wandb", "onlin"], "--wandb must be one of auto, online, offline, off, not 'onlin'"),
        (["--logger", "wandb,mlflow"], "--logger takes wandb, trackio, tensorboard, csv, or none, not 'mlflow'"),
        (["--logger", "csv,none"], "--logger csv,none: none stands alone"),
        (["--trainer.logger", "true"], "--trainer.logger is set by this project; use --logger"),
        (["--compile", "sometimes"], "--compile must be one of"),
    ],
)
@pytest.mark.parametrize("plan", [[], ["--plan"]])
def test_a_wrong_logger_or_mode_is_refused(command, flags, message, plan, capsys):
    assert main([*command, *flags, *plan], GLUE) == 2
    assert message in capsys.readouterr().err


def test_a_logger_that_is_not_installed_is_refused_before_anything_trains(command, monkeypatch, capsys):
    monkeypatch.setattr("modules.runs.tracking.importlib.util.find_spec", lambda name: None)
    assert main([*command, "--logger", "trackio"], GLUE) == 2
    assert "--logger trackio needs a package: pip install trackio" in capsys.readouterr().err


def test_compare_has_the_flags_and_refuses_the_same(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(
        "benchmark: glue\ntasks: {rte: {epochs: 1}}\nseeds: [0]\ntune: {tasks: [rte], seed: 9}\n"
        "common: {batch_size: 8, max_length: 32}\nvariants: {lora: {lr: [1.0e-3]}}\n"
    )
    options = compare.parse([str(file), "--model", "embedded"])
    assert (options.wandb, options.logger) == ("auto", "wandb")
    with pytest.raises(UserError, match="--wandb must be one of auto, online, offline, off, not 'onlin'"):
        compare.main([str(file), "--model", "embedded", "--results_dir", str(tmp_path / "r"), "--wandb", "onlin"])


def test_every_run_knows_its_command(command):
    for run in planned([*command, "--seeds", "0,1", "--wandb_tags", "a b", "--reference"], "head"):
        words = shlex.split(run.command)
        assert words[words.index("--seeds") + 1] == str(run.seed) and words[words.index("--wandb_tags") + 1] == "a b"
        assert planned(words[2:], "head")[0].id == run.id
    assert "--logger" not in Wishes(benchmark=GLUE).command("rte", 0)
