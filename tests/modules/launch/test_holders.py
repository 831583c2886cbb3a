"""Runs that another command is at: said, waited for, never taken from it."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from modules.benchmarks.glue import GLUE
from modules.experiments.command import main
from modules.launch import pool, worker
from modules.launch.claims import Holder, claim, holder
from modules.runs.results import ResultStore
from tests.support.runs import carry_out, planned


@pytest.fixture
def held(command):
    """The runs of seeds 0 and 1, the first of which another process trains."""
    runs = planned([*command, "--variant", "head", "--seeds", "0,1"], "head")
    (runs[0].folder / "last.ckpt").write_text("half way")
    with claim(runs[0].folder) as mine:
        assert mine
        yield runs


def test_a_claim_says_whose_it_is(held):
    """The command, the machine and the time."""
    words = holder(held[0].folder)
    assert f"process {os.getpid()} on {platform.node()}, since 20" in words
    assert holder(held[1].folder) is None
    with claim(held[0].folder) as mine:
        assert not mine
    assert holder(held[0].folder) == words, "who asks in vain leaves the claim as it is"


def test_a_table_without_the_runs_of_another_command_is_said_to_be_partial(held, command, in_this_process, capfd):
    """Fault B1: the command exits with 1 and names who holds which runs."""
    flags = [*command, "--variant", "head", "--seeds", "0,1"]
    assert main(flags, GLUE) == 1
    said = capfd.readouterr()
    assert f"another command (process {os.getpid()}" in said.err and "1 of these 2 runs (rte head seed 0)" in said.err
    assert [ResultStore(run.results_dir).done(run.id) for run in held] == [False, True]


def test_force_leaves_the_runs_of_another_command_alone(held, command, in_this_process, capfd):
    """Fault B8: nothing is deleted, nothing trained."""
    carry_out(held[1])
    assert main([*command, "--variant", "head", "--seeds", "0,1", "--force"], GLUE) == 2
    assert "--force: rte head seed 0 is being trained by another command (process" in capfd.readouterr().err
    assert (held[0].folder / "last.ckpt").is_file() and ResultStore(held[1].results_dir).done(held[1].id)


def test_a_comparison_says_so_too(held, monkeypatch, tmp_path):
    from modules.comparison.comparison import Comparison

    monkeypatch.setattr("modules.launch.jobs.launch.run_workers", lambda *_: 0)
    comparison = SimpleNamespace(jobs=1, launch=None, stack=False, content=SimpleNamespace(for_all={}))
    comparison._recipes = {(run.id, tmp_path): {} for run in held}
    comparison.missing = lambda runs, folder: []
    comparison._other = lambda folder: ResultStore(folder / "tuning")
    assert Comparison.carry_out(comparison, held, tmp_path) == 1


def test_what_a_kill_left_is_removed_and_not_counted(command):
    """Fault B3: half-written files in a run's folders."""
    (run,) = planned(command, "head")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = [run.folder / "best" / f".adapter.safetensors.{gone.pid}-1.tmp", run.folder / f".last.ckpt.{gone.pid}-1.tmp"]
    writing = run.folder / "best" / f".adapter.json.{os.getpid()}-1.tmp"
    (run.folder / "best").mkdir(parents=True)
    for file in (*left, writing):
        file.write_bytes(b"0" * 100_000)
    carry_out(run)
    assert not any(file.exists() for file in left) and writing.exists(), "one that lives may still be writing"
    (kept,) = (ResultStore(run.results_dir).read(run.id),)
    sizes = sum((run.folder / "best" / name).stat().st_size for name in ("adapter.safetensors", "adapter.json"))
    assert kept.cost["file_bytes"] == sizes


def test_a_worker_that_was_killed_is_named_and_the_code_is_1(command, monkeypatch, capfd):
    """Fault B10: not the signal's number, and what it was at."""
    (run,) = planned(command, "head")
    die = f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"
    start = subprocess.Popen

    def killed(arguments, env):
        process = start([sys.executable, "-c", die])
        here = dataclasses.asdict(Holder.here()) | {"worker": process.pid}
        (run.folder / "claim.1").write_text(json.dumps(here))
        return process

    monkeypatch.setattr(pool.subprocess, "Popen", killed)
    assert pool.run_workers([run.id], run.results_dir, jobs=1) == 1
    assert "error: rte head seed 0 was ended by signal 9 (SIGKILL), as the system does" in capfd.readouterr().err


def test_who_waits_for_another_commands_run_says_so(command, monkeypatch, capsys):
    """A run that starts from MNLI's, which another command trains."""
    runs = planned([*command, "--tasks", "mrpc"], mnli_init=True)
    store = ResultStore(runs[0].results_dir)
    end = SimpleNamespace(sleep=lambda _: store.path(runs[0].id).write_text("{}"))
    monkeypatch.setattr(worker, "time", end)
    with claim(runs[0].folder):
        worker.complete(runs[0].id, store, {})
    assert "waiting for mnli lora seed 0, which another command (process" in capsys.readouterr().out
