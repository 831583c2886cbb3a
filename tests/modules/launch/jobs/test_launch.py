"""`--launch`: its flags, and jobs on this machine by submitit's local executor."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from modules.benchmarks.glue import GLUE
from modules.experiments.command import main
from modules.launch.jobs import launch as launching
from modules.launch.jobs import queues
from modules.launch.jobs.job import WorkerJob
from modules.launch.jobs.launch import Launch
from modules.launch.jobs.queues import Local
from modules.runs.results import ResultStore
from variants.errors import UserError

ROOT = Path(__file__).resolve().parents[4]


@pytest.mark.parametrize(
    ("where", "options", "words"),
    [
        (None, {"time": "3"}, "--slurm.time needs --launch slurm"),
        ("local", {"time": "3"}, "--slurm.time is for --launch slurm"),
        ("cloud", {}, "--launch must be local or slurm"),
        ("slurm", {"no_such": "3"}, "--slurm.no_such is not known"),
        ("slurm", {}, "sbatch, which is not on PATH"),
    ],
)
def test_flags_that_do_not_fit(monkeypatch, where, options, words):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=words):
        Launch.of(where, options)


def test_without_submitit_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'lora-variants\[slurm\]'"):
        Launch.of("local", None)
    assert Launch.of("slurm", None, submits=False).options["time"] == 240, "a script needs no submitit"


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "SLURM_STEP_NUM_TASKS"])
def test_under_torchrun_or_srun_it_is_refused(monkeypatch, variable):
    """Each of their processes would submit every job."""
    monkeypatch.setenv(variable, "2")
    with pytest.raises(UserError, match="leave torchrun or srun out"):
        Launch.of("local", None)


def test_what_has_a_job_is_not_submitted_again(monkeypatch, tmp_path, capsys):
    """A queue that knows one run's job is given the others; what ends without a result is named, once."""

    class Run:
        def __init__(self, id):
            self.id, self.title, self.folder = id, f"mrpc lora seed {id}", tmp_path / id

    class Queue:
        logs = {"old": "old.log", "a": str(tmp_path / "a.log"), "b": "no-such.log"}
        live = [{"old": ("running", ""), "a": ("pending", "Priority")}, {"old": ("running", "")}]

        def known(self, runs):
            return {"1": "old"}

        def submit(self, groups, results_dir):
            self.submitted = [[run.id for run in group] for group in groups]
            return {"2": "a", "3": "a", "4": "b"}

        def states(self):
            return self.live.pop(0) if self.live else {}

        def stop(self):
            raise AssertionError("nothing stopped the command")

    queue = Queue()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "1.json").write_text("")
    (tmp_path / "a.log").write_text("error: early\nerror: mrpc lora seeds 2,3: no memory\nlast words\n")
    monkeypatch.setattr(launching, "Local", lambda *_: queue)
    monkeypatch.setattr(launching.time, "sleep", lambda seconds: None)
    runs = [Run("1"), Run("2"), Run("3"), Run("4")]
    code = launching.run_jobs([runs[:2], runs[2:3], runs[3:]], str(tmp_path), Launch("local"), 1)
    out, err = capsys.readouterr()
    assert code == 1 and queue.submitted == [["2"], ["3"], ["4"]]
    assert "1 run with a job already" in out
    assert out.splitlines()[1] == "jobs: 1 of 4 runs done, 0 running, 2 pending (Priority), 0 failed"
    assert out.splitlines()[-1] == "jobs: 1 of 4 runs done, 0 running, 0 pending, 3 failed"
    assert sorted(err.splitlines()) == [
        "error: mrpc lora seed 4: its job ended without a result; the log of its job: no-such.log",
        *[f"error: mrpc lora seeds 2,3: no memory; the log of its job: {tmp_path / 'a.log'}"] * 2,
    ]


@pytest.mark.slow
def test_local_jobs(command, tmp_path, capsys, monkeypatch):
    """A job with a log of its own, then the table; started again nothing is left to do."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    words = [*command, "--launch", "local", "--jobs", "1"]
    assert main(words, GLUE) == 0
    out = capsys.readouterr().out
    assert "jobs: 1 of 1 run done" in out and re.search(r"^lora .*  1 +[\d,]+$", out, re.M)
    (run,) = ResultStore(tmp_path / "results").all()
    (log,) = (tmp_path / "results" / "jobs").glob("*_log.out")
    assert "rte lora seed 0: epoch 2/2" in log.read_text()
    assert main(words, GLUE) == 0 and "1 done before" in capsys.readouterr().out


def test_a_local_job_takes_the_gpu_that_is_free(monkeypatch, tmp_path):
    """Not the next in turn: jobs do not end in the order of their start."""
    given, ended = {}, set()

    class Executor:
        def __init__(self, folder, **_):
            self.update_parameters = lambda **_: None

        def submit(self, work):
            given[work.word] = work.environment["CUDA_VISIBLE_DEVICES"]
            paths = SimpleNamespace(stdout=tmp_path / "log")
            return SimpleNamespace(done=lambda: work.word in ended, paths=paths)

    monkeypatch.setattr(queues, "submitit", lambda: SimpleNamespace(LocalExecutor=Executor))
    monkeypatch.setattr(queues, "shared_out", lambda at_once, *_: (at_once, ["0", "1"]))
    queue = Local(tmp_path, 2, {}, False)
    queue.submit([[SimpleNamespace(id=id)] for id in "abcd"], str(tmp_path))
    for word in ("", "b", "c"):
        ended.add(word)
        queue.states()
    assert given == {"a": "0", "b": "1", "c": "1", "d": "1"}


@pytest.mark.slow
def test_local_jobs_that_are_stopped_have_ended(tmp_path, monkeypatch):
    """So many run at once; those that wait never start."""

    class Endless(WorkerJob):
        def _work(self) -> int:
            print("at work", flush=True)
            time.sleep(60)
            return 0

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    queue = Local(tmp_path, 1, {}, False)
    queue.waiting = [Endless(str(tmp_path), word, {}, os.getpid()) for word in "ab"]
    assert queue.states() == {"a": ("running", ""), "b": ("pending", "")}
    deadline = time.monotonic() + 60
    while "at work" not in (Path(queue.logs["a"]).read_text() if Path(queue.logs["a"]).exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    queue.stop()
    assert queue.started["a"].done() and list(queue.started) == ["a"]
    assert "Job completed" not in Path(queue.logs["a"]).read_text()
