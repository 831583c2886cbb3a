"""Whether a process runs: only where its number means what it means here."""

from __future__ import annotations

import os
import subprocess
import sys

from modules.launch import machine
from modules.launch.machine import runs, started, this_machine


def test_a_process_of_this_machine_runs_until_it_ends(monkeypatch):
    here, mine = this_machine(), os.getpid()
    assert runs(here, mine, started(mine)) is True
    assert runs(here, mine, started(mine) - 1) is False, "the number was given again"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    start = started(gone.pid)
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    assert runs(here, gone.pid, start) is False, "nobody has asked for its exit code"
    gone.wait()
    assert runs(here, gone.pid, start) is False


def test_what_cannot_be_known_is_not_said(monkeypatch):
    mine = os.getpid()
    assert runs("another boot", mine, started(mine)) is None
    assert runs(this_machine(), mine, None) is None, "a system that tells no start time"
    monkeypatch.setattr(machine, "_stat", lambda process: None)
    assert started(mine) is None


def test_a_machine_without_proc_has_a_name(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_BOOT", tmp_path / "none")
    assert this_machine.__wrapped__() == this_machine.__wrapped__() != this_machine()
