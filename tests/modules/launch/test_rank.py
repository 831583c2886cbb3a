"""One rank of a run, as a process."""

from __future__ import annotations

import os
import subprocess
import sys

from modules.launch.failures import Failure
from modules.processes import WITH_PARENT


def test_a_rank_tells_its_worker_why_it_failed_and_prints_nothing(tmp_path):
    read, write = os.pipe()
    command = [sys.executable, "-m", "modules.launch.rank", str(tmp_path), "no-such-run", str(write)]
    environment = {**os.environ, WITH_PARENT: str(os.getpid())}
    done = subprocess.run(command, env=environment, pass_fds=(write,), capture_output=True, text=True)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        failure = Failure.read(told.read())
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    assert failure.code == 2 and failure.line.startswith("no-such-run: ") and "config.json" in failure.line
