"""The pool of workers: the GPUs that they take in turn, their memory, and how they end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from modules.launch import pool as launcher
from modules.launch.pool import run_workers
from tests.support.runs import ENVIRONMENT, planned

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("named", "count", "gpus"),
    [
        (None, 2, ["0", "1"]),
        (None, 0, []),
        ("3,5", 2, ["3", "5"]),
        ("", 0, []),
        ("GPU-a1,GPU-b2", 2, ["GPU-a1", "GPU-b2"]),
    ],
)
def test_visible_gpus(monkeypatch, named, count, gpus):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert launcher.visible_gpus() == gpus


def test_workers_take_the_gpus_in_turn(monkeypatch, tmp_path):
    started = []

    class Process:
        def __init__(self, command, env):
            started.append((command[4], env.get("CUDA_VISIBLE_DEVICES")))

        wait = poll = staticmethod(lambda: 0)

    monkeypatch.setattr(launcher.subprocess, "Popen", Process)
    monkeypatch.setattr(launcher, "visible_gpus", lambda: ["0", "1"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert launcher.run_workers(["a", "b", "c", "d"], str(tmp_path), jobs=3) == 0
    assert started == [("a", "0"), ("b", "1"), ("c", "0")]
    started.clear()
    launcher.run_workers(["a", "b"], str(tmp_path), jobs=1)
    assert started == [("a", None)], "a run that is alone may use what it likes"
    started.clear()
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("RANK", "1")):
        monkeypatch.setenv(name, value)
    launcher.run_workers(["a", "b"], str(tmp_path), 8, {"devices": 2})
    assert started == [("a", None), ("b", None)], "one after the other, in the place of a launcher's rank"
    started.clear()
    monkeypatch.setattr(Process, "wait", lambda _: 1)
    assert launcher.run_workers(["a", "b"], str(tmp_path), 8, {"devices": 2}) == 1
    assert started == [("a", None)], "other ranks may have failed elsewhere"


@pytest.mark.parametrize(
    ("trainer", "stacked", "jobs", "started"),
    [
        ({"devices": 2}, False, 8, ["0,1", "2,3"]),
        ({"devices": "2"}, False, 1, [None]),
        ({"devices": 3}, False, 8, [None]),
        ({"devices": -1}, False, 8, [None]),
        ({"devices": [1, 3]}, False, 8, [None]),
        ({"devices": [3]}, False, 2, [None, None]),
        ({}, False, 3, ["0", "1", "2"]),
        ({}, True, 3, ["0", "1", "2"]),
        ({"devices": 2}, True, 8, ["0", "1", "0", "1"]),
        ({"devices": "1,3"}, True, 2, ["1", "3"]),
        ({"devices": [3]}, True, 1, ["3"]),
    ],
)
def test_runs_of_several_ranks_take_groups_of_gpus_and_stacks_one_each(
    monkeypatch, tmp_path, trainer, stacked, jobs, started
):
    """Where a run names its devices it sees all of them; where no second group is there, runs follow each other."""
    given = []

    class Process:
        def __init__(self, command, env):
            given.append(env.get("CUDA_VISIBLE_DEVICES"))

        wait = poll = staticmethod(lambda: 0)

    monkeypatch.setattr(launcher.subprocess, "Popen", Process)
    monkeypatch.setattr(launcher, "visible_gpus", lambda: ["0", "1", "2", "3"])
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    launcher.run_workers(["a", "b", "c", "d"], str(tmp_path), jobs, trainer, stacked)
    assert given == started


@pytest.mark.parametrize(
    ("trainer", "stacked", "gpus", "jobs"),
    [({}, False, 4, 4), ({"devices": 2}, False, 4, 2), ({"devices": 3}, False, 4, 1), ({"devices": 2}, True, 4, 2),
     ({}, True, 4, 4), ({}, False, 0, 8), ({"devices": 3}, False, 0, 2), ({"devices": 2}, True, 0, 2),
     ({"accelerator": "cpu", "devices": 16}, False, 4, 1)],
)  # fmt: skip
def test_default_jobs(monkeypatch, trainer, stacked, gpus, jobs):
    monkeypatch.setattr(launcher, "visible_gpus", lambda: [str(k) for k in range(gpus)])
    monkeypatch.setattr(launcher.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert launcher.default_jobs(trainer, stacked) == jobs


COMMAND = """
import sys
from modules.command_line import guarded
from modules.launch.pool import run_workers
sys.exit(guarded(lambda: run_workers([sys.argv[2]], sys.argv[1], 1, {"accelerator": "cpu"})))
"""


@pytest.mark.slow
def test_workers_end_with_the_command(command, tmp_path):
    """SIGTERM to the command, as a scheduler sends it, leaves no process training.

    `tests/modules/test_processes.py` tries every signal, on workers that do not train.
    """
    (run,) = planned([*command, "--epochs", "500"])
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, run.results_dir, run.id],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
    )
    for line in process.stdout:
        if "epoch" in line:
            break
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    folder = tmp_path / "results" / "runs"
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    time.sleep(1.5)
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.slow
def test_a_failing_worker_is_reported(tmp_path, capfd):
    assert run_workers(["no-such-run"], str(tmp_path), jobs=1) == 2  # bad input, not an accident


def test_cores_are_shared_out_among_the_ranks_of_all_jobs(monkeypatch, tmp_path):
    """`--launch local --jobs 4` with runs of two ranks."""
    given: list[dict[str, str]] = []
    ended = SimpleNamespace(wait=lambda: 0, poll=lambda: 0)
    monkeypatch.setattr(launcher.subprocess, "Popen", lambda command, env: given.append(env) or ended)
    monkeypatch.setattr(launcher.os, "cpu_count", lambda: 16)
    monkeypatch.setenv("LORA_VARIANTS_RUNS_AT_ONCE", "4")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    run_workers(["a"], str(tmp_path), 1, {"devices": 2, "accelerator": "cpu"})
    assert given[0]["OMP_NUM_THREADS"] == "2" and given[0]["LORA_VARIANTS_RUNS_AT_ONCE"] == "4"


def test_workers_keep_memory_and_have_cusolver_unless_told_otherwise(monkeypatch, tmp_path):
    given: list[dict[str, str]] = []

    class Worker:
        def __init__(self, command, env):
            given.append(env)

        def wait(self) -> int:
            return 0

        poll = wait

    monkeypatch.setattr("modules.launch.pool.subprocess.Popen", Worker)
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    assert run_workers(["a", "b"], str(tmp_path), jobs=2) == 0
    assert [env["MALLOC_TOP_PAD_"] for env in given] == ["1", "1"]
    assert int(given[0]["MALLOC_TRIM_THRESHOLD_"]) > int(given[0]["MALLOC_MMAP_THRESHOLD_"]) > 2**20
    monkeypatch.undo()
    asked = "import torch; print(torch.backends.cuda.preferred_linalg_library())"
    said = subprocess.run([sys.executable, "-c", asked], env=given[0], capture_output=True, text=True, check=True)
    assert "Cusolver" in said.stdout and not said.stderr
