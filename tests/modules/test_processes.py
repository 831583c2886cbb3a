"""How processes end: stopped by signals, killed with their parent, with nobody who reads them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modules.processes import lasting_output
from modules.runs.results import ResultStore
from modules.training.run import run as train
from tests.support.runs import planned
from variants.errors import exit_code

ROOT = Path(__file__).resolve().parents[2]

WORKER = """
import os, sys, time
from modules.processes import WITH_PARENT, end_with_parent
end_with_parent(int(os.environ[WITH_PARENT]))
os.write(1, f"{os.getpid()}\\n".encode())  # at once: two of them write there
time.sleep(60)
"""

COMMAND = """
import subprocess, sys
from modules.command_line import guarded
from modules.launch import pool

start = subprocess.Popen
pool.subprocess.Popen = lambda command, env: start([sys.executable, "-c", sys.argv[1]], env=env)
pool.visible_gpus = lambda: []
sys.exit(guarded(lambda: pool.run_workers(["a", "b"], "nowhere", jobs=2)))
"""


def lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
@pytest.mark.parametrize(
    ("signals", "to_all", "code"),
    [
        (["SIGINT", "SIGINT"], True, 130),
        (["SIGTERM", "SIGTERM"], False, 130),
        (["SIGHUP"], False, 130),
        (["SIGUSR1"], False, 130),
        (["SIGKILL"], False, -signal.SIGKILL),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_no_worker_outlives_its_command(signals, to_all, code):
    """Faults B2 and C15: whatever ends the command, twice within a moment too; one line, and no traceback."""
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, WORKER],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal's Ctrl-C goes to a whole group
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    workers = [int(command.stdout.readline()) for _ in range(2)]
    for name in signals:
        (os.killpg if to_all else os.kill)(command.pid, getattr(signal, name))
        time.sleep(0.1)
    assert command.wait(20) == code
    deadline = time.monotonic() + 5
    while any(map(lives, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(lives, workers))
    assert command.stderr.read().split("\n") == (
        [""] if code < 0 else ["", "stopped; the same command goes on from here", ""]
    )


def guarded_in_process(code: str, **options) -> subprocess.CompletedProcess:
    script = (
        f"import sys\nfrom modules.command_line import guarded\ndef command():\n    {code}\nsys.exit(guarded(command))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE, text=True, **options)


def test_a_reader_that_has_gone_is_no_failure():
    """Fault B6: `command | head -1`."""
    read, write = os.pipe()
    os.close(read)
    done = guarded_in_process("print('a line', flush=True); print('another'); return 0", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_is_lost_on_a_full_disk_is_said_in_one_line():
    with open("/dev/full", "w") as full:
        done = guarded_in_process("print('a line', flush=True); return 0", stdout=full)
    assert done.returncode == 1
    assert done.stderr == "error: the output could not be written: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_training_goes_on_with_its_output_on_a_full_disk(command, monkeypatch):
    """Fault B6: the run is trained and recorded."""
    (run,) = planned(command, "head")
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with lasting_output() as lost:
            train(run)
            assert "No space left" in lost()
    assert ResultStore(run.results_dir).done(run.id)


def test_a_full_disk_is_named_where_it_is(monkeypatch, tmp_path):
    """Fault B7: TMPDIR, not the results."""
    import errno
    import tempfile

    from modules.command_line import one_line

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    in_tmp = one_line(OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "tmp" / "part")))
    elsewhere = one_line(OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "results" / "a.json")))
    assert "TMPDIR" in in_tmp and "TMPDIR" not in elsewhere and "--results_dir" in elsewhere
    done = guarded_in_process("raise OSError(28, 'No space left on device', 'x.json')", stdout=subprocess.PIPE)
    assert done.returncode == 2 and done.stderr.startswith("error: cannot write x.json: No space left on device;")


def test_a_command_whose_output_is_closed_runs(monkeypatch):
    """Python has no sys.stdout after `>&-`, and commands flush it."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert exit_code(lambda: sys.stdout.write("lost") and sys.stderr.write("lost") and 0) == 0
