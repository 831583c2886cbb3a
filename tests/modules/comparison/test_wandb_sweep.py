"""`--export wandb-sweep`: what agents are told to call is the run that compare.py would do, under the same id."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from modules.comparison import tuning
from modules.comparison.wandb_sweep import export, sweep
from modules.runs.results import ResultStore
from paper_repro import compare
from tests.support.runs import planned
from tests.support.sweep_server import SweepServer
from variants.errors import UserError

GRID = {"options": {"r": [1, 2], "target": ["q", "q,v"]}, "lr": [0.01], "trainer": {"accumulate_grad_batches": [1, 2]}}


def words_of(content: dict, point: dict) -> list[str]:
    """The command's words after the program, as W&B's own agent makes them."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    known = create_sweep_command_args({"args": {name: {"value": value} for name, value in point.items()}})
    words = []
    for word in content["command"][3:]:
        words += known[word[2:-1]] if word.startswith("${") else [word]
    return words


def test_an_agent_trains_the_same_run_under_the_same_id(make):
    """Every point of the grid; options, rate and Trainer options; a shortened schedule too."""
    comparison = make(GRID, {"trainer": {"precision": "bf16-mixed"}}, trainer={"accelerator": "cpu"})
    (row,) = comparison.rows()
    content = yaml.safe_load(export(comparison, [row], None).read_text())
    assert content["command"][:3] == ["${env}", "${interpreter}", "${program}"] and Path(content["program"]).is_file()
    assert content["method"] == "grid" and content["metric"] == {"name": "best/score", "goal": "maximize"}
    for point in tuning.points(comparison, row):
        (ours,) = comparison.runs(row, point, tuning=True)
        (theirs,) = planned(words_of(content, point))
        assert theirs.id == ours.id and theirs.folder == ours.folder.absolute()
        assert (theirs.options, theirs.training, theirs.trainer) == (ours.options, ours.training, ours.trainer)


def test_ranges_are_distributions_of_wandb(make):
    space = {
        "options": {"r": {"min": 2, "max": 64, "step": 2}, "alpha": {"min": 1, "max": 32, "log": True}},
        "common": {"batch_size": {"min": 4, "max": 9}, "weight_decay": {"min": 0.0, "max": 0.1}},
        "lr": {"min": 1e-4, "max": 1e-2, "log": True},
    }
    comparison = make(space, {"search": "optuna", "trials": 20}, common={"max_length": 32, "epochs": 1})
    content = sweep(comparison, comparison.rows()[0])
    assert content["method"] == "bayes" and content["run_cap"] == 20 and "--force" in content["command"]
    kinds = {name: known["distribution"] for name, known in content["parameters"].items()}
    assert kinds == {
        "r": "q_uniform",
        "alpha": "q_log_uniform_values",
        "batch_size": "int_uniform",
        "weight_decay": "uniform",
        "lr": "log_uniform_values",
    }
    assert content["parameters"]["r"] == {"distribution": "q_uniform", "min": 2, "max": 64, "q": 2}


def test_a_loss_is_minimised(make):
    comparison = make({"lr": [0.1, 0.2]}, {"metric": "loss"})
    assert sweep(comparison, comparison.rows()[0])["metric"] == {"name": "dev/loss", "goal": "minimize"}


@pytest.mark.parametrize(
    ("row", "changes", "says"),
    [
        (
            {},
            {"variants": {"lora": {"options": {"r": [1, 2]}}, "dora": {"options": {"r": [1, 2]}}}},
            "lora, dora; choose",
        ),
        ({}, {"seeds": [0]}, "of one row, and these search: none"),
        ({"lr": [0.1, 0.2]}, {"tasks": {"rte": {}, "mrpc": {}}, "tune": {"tasks": ["rte", "mrpc"]}}, "tasks names 2"),
        ({"lr": [0.1, 0.2]}, {"tune": {"metric": "f1"}}, "compares best/score or the loss, not f1"),
        ({"trainer": {"limit_train_batches": [2, 1.0]}}, {}, "truncate the run, which then has no score"),
        ({"options": {"per_layer": [{}, {"0": {"r": 1}}]}}, {}, "numbers and words as values, not {}"),
    ],
)
def test_what_no_sweep_can_be_is_one_line(make, row, changes, says):
    comparison = make(row, **changes)
    with pytest.raises(UserError, match=says):
        export(comparison, comparison.rows(), None)


def test_the_command_names_the_file(make, capsys, tmp_path):
    comparison = make({"lr": [0.1, 0.2]})
    words = [str(comparison.path), "--model", "embedded", "--results_dir", str(tmp_path / "r"), "--export"]
    assert compare.main([*words, "wandb-sweep", str(tmp_path / "mine.yaml")]) == 0
    assert f"wandb sweep --project lora-variants {tmp_path / 'mine.yaml'}" in capsys.readouterr().out
    with pytest.raises(UserError, match="--export takes wandb-sweep"):
        compare.main([*words, "mlflow"])


@pytest.mark.slow
def test_wandbs_own_agent_runs_it(make, tmp_path, in_this_process):
    """`wandb sweep` and `wandb agent` against a server on this machine; a run has the agent's id, and counts."""
    comparison = make({"options": {"r": [1, 2]}}, trainer={"accelerator": "cpu"})
    file = export(comparison, comparison.rows(), tmp_path / "sweep-of-wandb.yaml")
    with SweepServer(points=1) as server:
        places = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "offline"}
        places |= {"WANDB_DIR": str(tmp_path), "HOME": str(tmp_path)}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

        def wandb(*words: str) -> str:
            command = [sys.executable, "-m", "wandb", *words]
            ours = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "LORA_"))}
            environment = ours | places | {"PATH": path}
            done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240)
            assert done.returncode == 0, done.stderr
            return done.stdout + done.stderr

        assert "wandb agent me/p/sweep1" in wandb("sweep", "--project", "p", str(file))
        said = wandb("agent", "me/p/sweep1")
        assert server.given == {"agents-run-1": {"r": 1}}, said
    (result,) = ResultStore(comparison.tuning).all()
    assert result.variant_config["r"] == 1, said
    logged = {folder.name.split("-", 3)[3] for folder in (tmp_path / "wandb").glob("offline-run-*")}
    assert logged == set(server.given), "the run of the sweep is one of W&B's"
    trials, code = tuning.search(comparison, comparison.rows())
    assert code == 0 and len(trials["lora"]) == 2 and all(each.score is not None for each in trials["lora"])
    assert ResultStore(comparison.tuning).read(result.id) == result, "for compare.py too it is done"
