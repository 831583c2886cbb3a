"""What a job does besides its worker: it ends with its command, waits for a run that is held, and is queued again."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modules.launch import job
from modules.launch.job import WorkerJob
from modules.runs.config import RunConfig

ROOT = Path(__file__).resolve().parents[3]
ENDLESS = """
import sys, time
from modules.launch import job
job.run_workers = lambda *_, **__: print("at work", flush=True) or time.sleep(60) or 0
job.WorkerJob("results", "a", command=int(sys.argv[1]))()
"""


@pytest.mark.parametrize("stopped", [True, False])
def test_a_local_job_ends_with_its_command(stopped):
    """It is told (SIGTERM), or finds the command gone."""
    command = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    words = [sys.executable, "-c", ENDLESS, str(command.pid)]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "at work\n"
        if stopped:
            process.send_signal(signal.SIGTERM)
        else:
            command.kill()
            command.wait()
        assert process.wait(10) == 130
    finally:
        for each in (command, process):
            each.kill()
            each.wait()


def test_a_job_waits_for_a_run_that_is_held(monkeypatch, tmp_path):
    """A machine that died may still hold the run that its job, queued again, goes on with."""
    held, calls = ["another command", "another command", None], []
    monkeypatch.setattr(RunConfig, "read", lambda folder, id: type("Run", (), {"id": id, "folder": tmp_path / id}))
    monkeypatch.setattr(job, "holder", lambda folder: held.pop(0))
    monkeypatch.setattr(job, "run_workers", lambda words, folder, jobs: calls.append(words) or 0)
    monkeypatch.setattr(job, "PAUSE", 0.0)
    before = signal.getsignal(signal.SIGTERM)
    try:
        WorkerJob(str(tmp_path), "a")()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert calls == [["a"]] * 3 and not held


def test_a_job_that_slurm_has_warned_waits_for_its_end(monkeypatch, tmp_path):
    """SIGTERM ends the worker too; the job must not count as failed before it is queued again."""
    waited = []
    monkeypatch.setattr(RunConfig, "read", lambda folder, id: type("Run", (), {"id": id, "folder": tmp_path / id}))
    monkeypatch.setattr(job, "run_workers", lambda *_, **__: signal.raise_signal(signal.SIGTERM) or 1)
    monkeypatch.setattr(job.time, "sleep", waited.append)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit):
            WorkerJob(str(tmp_path), "a")()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert waited == [job.GRACE]


def test_what_is_queued_again_is_the_job():
    work = WorkerJob("results", "a+b", {"X": None})
    assert work.checkpoint().function == work == pickle.loads(pickle.dumps(work))


def test_the_environment_of_a_job(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seen = {}
    monkeypatch.setattr(WorkerJob, "_slurm", lambda self: seen.update(job.os.environ) or 0)
    WorkerJob("results", "a", {"CUDA_VISIBLE_DEVICES": None, "OMP_NUM_THREADS": "3"})()
    assert "CUDA_VISIBLE_DEVICES" not in seen and seen["OMP_NUM_THREADS"] == "3"
