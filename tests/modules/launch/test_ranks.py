"""The ranks of a run: started together, and ended at the first that fails, which is named."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from modules.launch import ranks
from modules.runs.ranks import BY_WORKER
from modules.runs.results import ResultStore
from tests.support.kill_ranks import wait_for_ranks
from tests.support.runs import ENVIRONMENT, carry_out, planned

RUN = SimpleNamespace(title="mrpc lora seed 0", results_dir="R", id="ID", trainer={"devices": 2, "accelerator": "cpu"})

RANK = """
import json, os, signal, sys, time

def tell(line, code=1, traceback="", lost=False):
    os.write(int(sys.argv[1]), json.dumps(dict(line=line, code=code, traceback=traceback, lost=lost)).encode())
    os._exit(code)

def lose():
    tell("lost the others", lost=True)

def die(number=signal.SIGKILL):
    os.kill(os.getpid(), number)

rank = os.environ["RANK"]
"""


@pytest.fixture
def outcome(monkeypatch):
    """Carry out code instead of each rank -> the failure, or None; no process may be left."""
    start, started = subprocess.Popen, []

    def carry_out(first: str, second: str) -> ranks.Failure | None:
        def popen(command, env, **options):
            code = RANK + (first, second)[int(env["RANK"])]
            started.append(start([sys.executable, "-c", code, command[-1]], env=env, **options))
            return started[-1]

        started.clear()
        monkeypatch.setattr(ranks.subprocess, "Popen", popen)
        try:
            ranks.run_in_ranks(RUN)
        except ranks.RanksFailed as error:
            return error.failure
        finally:
            assert len(started) == 2 and all(process.returncode is not None for process in started)

    return carry_out


WAITS = "print('rank waits', file=sys.stderr, flush=True); time.sleep(60)"


@pytest.mark.parametrize(
    ("first", "second", "line", "code"),
    [
        (WAITS, "time.sleep(0.2); die()", "rank 1 of mrpc lora seed 0 was ended by signal 9 (SIGKILL), as", 1),
        ("die(signal.SIGSEGV)", WAITS, "rank 0 of mrpc lora seed 0 was ended by signal 11 (SIGSEGV); the same", 1),
        ("lose()", "time.sleep(0.4); die()", "rank 1 of mrpc lora seed 0 was ended by signal 9", 1),
        ("time.sleep(0.2); die(signal.SIGABRT)", "time.sleep(0.5); tell('mine')", "mine", 1),
        ("lose()", "time.sleep(0.4); tell('T failed', traceback='...')", "T failed", 1),
        ("tell('T: no such file', 2)", "tell('T: no such file', 2)", "T: no such file", 2),
        (WAITS, "os._exit(3)", "rank 1 of mrpc lora seed 0 ended with code 3;", 1),
        ("lose()", "lose()", "lost the others", 1),
    ],
)
def test_the_first_that_fails_ends_the_others_and_is_named(outcome, first, second, line, code):
    begin = time.monotonic()
    failure = outcome(first, second)
    assert failure.line.startswith(line) and failure.code == code
    assert time.monotonic() - begin < 5


def test_who_was_killed_explains_the_errors_of_the_others():
    """Seen at once, whatever the others make of it."""
    failures = [ranks.Failure("T failed", traceback="..."), ranks.Failure("rank 1 was ended by signal 9")]
    ended = [SimpleNamespace(process=SimpleNamespace(poll=lambda: 1), failure=lambda f=f: f) for f in failures]
    assert ranks._first_failure(ended) == failures[1]


def test_a_rank_that_lost_nobody_we_know_of_is_named_after_a_while(outcome, monkeypatch):
    monkeypatch.setattr(ranks, "GRACE", 0.3)
    assert outcome("lose()", "time.sleep(60)").line == "lost the others"


def test_what_ranks_write_is_passed_on_until_one_fails(outcome, capfd):
    """A peer's broken connection is pages of text; the progress of a run is not."""
    assert outcome(r"sys.stderr.write('first\n')", r"sys.stderr.write('second\n')") is None
    assert sorted(capfd.readouterr().err.splitlines()) == ["first", "second"]
    noise = "signal.signal(signal.SIGTERM, lambda *_: (print('pages', file=sys.stderr, flush=True), os._exit(1)))\n"
    assert outcome(noise + "time.sleep(60)", "time.sleep(0.3); die()").line.startswith("rank 1")
    assert capfd.readouterr().err == ""


def test_the_environment_of_ranks(monkeypatch):
    """One machine: a port of its own. Several machines by hand: as the person has set them."""
    for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "7")
    names = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", BY_WORKER)
    first, second = ranks.environments(RUN)
    assert [first[name] for name in names] == ["0", "0", "2", "0", "127.0.0.1", "2"]
    assert [second[name] for name in names] == ["1", "1", "2", "0", "127.0.0.1", "2"]
    assert first["MASTER_PORT"] == second["MASTER_PORT"] != "7" and first["PATH"] == os.environ["PATH"]
    spread = SimpleNamespace(trainer=RUN.trainer | {"num_nodes": 8})
    assert [next(ranks.environments(spread))[name] for name in names] == ["0", "14", "16", "7", "7", "2"]


@pytest.mark.slow
def test_a_run_whose_rank_was_killed_goes_on(command, tmp_path):
    """Killed after an epoch: the other rank ends, one line says so, and what is left to train gives the result that an
    unbroken run of one process has. ``python -m tests.support.kill_ranks`` kills at any moment, and compares bits."""
    command = [*command, "--epochs", "8"]
    (whole,) = planned(command)
    (one,) = planned([*command, "--results_dir", str(tmp_path / "two")])
    two = dataclasses.replace(one, trainer=one.trainer | {"devices": 2})
    two.write()
    arguments = [sys.executable, "-m", "modules.launch.worker", two.results_dir, two.id]
    worker = subprocess.Popen(arguments, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    processes = wait_for_ranks(worker)
    while not (two.folder / "last.ckpt").exists() and worker.poll() is None:
        time.sleep(0.005)
    os.kill(processes[1], signal.SIGKILL)
    said = worker.communicate(timeout=60)[1]
    assert worker.returncode == 1 and not any(Path(f"/proc/{process}").exists() for process in processes.values())
    assert said.startswith("error: rank 1 of rte lora seed 0 was ended by signal 9") and said.count("\n") == 1
    assert not ResultStore(two.results_dir).done(two.id)
    carry_out(whole)
    one.write()
    carry_out(one)
    kept, expected = (ResultStore(run.results_dir).read(run.id) for run in (one, whole))
    for epoch, other in zip(kept.epochs, expected.epochs, strict=True):
        assert epoch == pytest.approx(other, abs=1e-5)
