"""What a job does besides its worker: it ends with its command, waits when it is warned, and is queued again."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modules.launch.jobs import job
from modules.launch.jobs.job import WorkerJob
from modules.runs.config import RunConfig

ROOT = Path(__file__).resolve().parents[4]
ENDLESS = """
import sys, time
from modules.launch.jobs import job
job.RunConfig.read = lambda *_: type("Run", (), {"trainer": {}})
job.run_workers = lambda *_, **__: print("at work", flush=True) or time.sleep(60) or 0
job.WorkerJob("results", "a", command=int(sys.argv[1]))()
"""


@pytest.mark.slow
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


def test_a_job_that_slurm_has_warned_waits_for_its_end(monkeypatch, tmp_path):
    """SIGTERM ends the worker too; the job must not count as failed before it is queued again."""
    waited = []
    monkeypatch.setattr(RunConfig, "read", lambda folder, id: type("Run", (), {"trainer": {}}))
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
