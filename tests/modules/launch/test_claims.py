"""One holder at a time: processes that are killed, machines that fall silent, holders that were asleep."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from modules.launch import claims, heartbeat, worker
from modules.launch.claims import SILENCE, ClaimLost, Holder, check_claim, claim, given_up, holder, last_holder, newest
from modules.runs.results import ResultStore
from tests.support.claims_stress import ROOT, stress
from tests.support.runs import planned
from variants.errors import UserError


@pytest.fixture
def clock(monkeypatch):
    """The observers' clock, in seconds: set by the test."""
    now = [100.0]
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def claimed_elsewhere(folder, **changes):
    """A claim of a machine that cannot be asked."""
    folder.mkdir(parents=True, exist_ok=True)
    content = dataclasses.asdict(Holder.here()) | {"machine": "another boot", "host": "b"} | changes
    path = folder / f"claim.{newest(folder) + 1}"
    path.write_text(json.dumps(content))
    return path


def test_a_claim_is_released_with_its_block_and_its_number_never_given_twice(tmp_path):
    folder = tmp_path / "run"
    for number in (1, 2, 3):
        with claim(folder) as mine:
            assert mine and not mine.lost and newest(folder) == number
            assert [file.name for file in folder.iterdir()] == [f"claim.{number}"]
            with claim(folder) as second:
                assert not second
        assert holder(folder) is None and last_holder(folder).until
    with pytest.raises(KeyError), claim(folder):
        raise KeyError
    assert holder(folder) is None


def test_other_ranks_belong_to_the_first(tmp_path, monkeypatch):
    with claim(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with claim(tmp_path) as mine:
            mine.check()
            assert mine and newest(tmp_path) == 1


CHILD = """
import sys
from pathlib import Path
from modules.launch import claims, machine
from modules.launch.claims import ClaimLost, claim
if len(sys.argv) > 2:
    claims.this_machine = lambda: sys.argv[2]
with claim(Path(sys.argv[1])) as mine:
    print("mine" if mine else "not mine", flush=True)
    sys.stdin.readline()
    try:
        mine.check()
        print("writes", flush=True)
    except ClaimLost as error:
        print(error, flush=True)
"""


def child(folder, *arguments, **variables):
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ) | {"PYTHONPATH": str(ROOT)} | variables,
    )
    assert process.stdout.readline() == "mine\n"
    return process


def test_a_killed_process_of_this_machine_holds_nothing_at_once(tmp_path):
    process = child(tmp_path)
    with claim(tmp_path) as mine:
        assert not mine
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # its parent has not asked for its exit code yet
    assert holder(tmp_path) is None
    with claim(tmp_path) as mine:
        assert mine
    process.communicate()


def test_a_holder_that_slept_while_it_was_taken_over_does_not_write(tmp_path):
    """Suspended, as a machine in trouble is; when it wakes it sees the higher number."""
    process = child(tmp_path, "another boot", LORA_VARIANTS_CLAIM_SILENCE="0.6")
    process.send_signal(signal.SIGSTOP)
    assert given_up([tmp_path]) == [tmp_path]
    with claim(tmp_path) as mine:
        assert mine
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate("\n")
        mine.check()
        assert said.startswith(f"was taken over by another command (process {os.getpid()} on")
        assert [file.name for file in tmp_path.iterdir()] == ["claim.2"]


def test_a_beating_holder_on_another_machine_keeps_its_run(tmp_path):
    process = child(tmp_path, "another boot", LORA_VARIANTS_CLAIM_SILENCE="1.2")
    assert given_up([tmp_path]) == [], "a beat was seen"
    with claim(tmp_path) as mine:
        assert not mine
    assert process.communicate("\n")[0] == "writes\n" and holder(tmp_path) is None


@pytest.mark.parametrize("content", [None, "", "{}", '{"command": "x"}'])
def test_a_silent_machine_is_followed_after_the_time_and_not_before(tmp_path, clock, content):
    """Also where the file is not whole, as file systems without hard links may leave it."""
    path = claimed_elsewhere(tmp_path)
    if content is not None:
        path.write_text(content)
    assert holder(tmp_path).startswith("another command")
    clock[0] += SILENCE - 1
    with claim(tmp_path) as mine:
        assert not mine
    clock[0] += 2
    assert holder(tmp_path) is None
    with claim(tmp_path) as mine:
        assert mine and newest(tmp_path) == 2


def test_the_time_is_the_holders(tmp_path, clock):
    """Machines with other settings: a holder that beats rarely says so."""
    claimed_elsewhere(tmp_path, silence=1000.0)
    assert holder(tmp_path)
    clock[0] += 999
    assert holder(tmp_path)
    clock[0] += 2
    assert holder(tmp_path) is None


def test_of_several_takers_one_wins(tmp_path, clock, monkeypatch):
    """All have seen the old claim, and then take."""
    claimed_elsewhere(tmp_path)
    assert holder(tmp_path)
    clock[0] += SILENCE + 1
    barrier, write, won, done = threading.Barrier(8), claims.write_new, [], threading.Event()
    monkeypatch.setattr(claims, "write_new", lambda path, content: (barrier.wait(10), write(path, content))[1])
    monkeypatch.setattr(claims, "TRIES", 1)

    def take() -> None:
        with claim(tmp_path) as mine:
            won.append(bool(mine))
            done.wait(10)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(won) < 8 and any(thread.is_alive() for thread in threads):
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]


def test_a_taker_that_slept_since_its_look_does_not_win(tmp_path, clock, monkeypatch):
    """Meanwhile two others have had the run, and the number that it wants is free again."""
    claimed_elsewhere(tmp_path)
    assert holder(tmp_path)
    clock[0] += SILENCE + 1
    write, slept = claims.write_new, []

    def sleep_first(path, content):
        if not slept:
            slept.append(True)
            with claim(tmp_path) as first:
                assert first
            held.__enter__()
        return write(path, content)

    held = claim(tmp_path)
    monkeypatch.setattr(claims, "write_new", sleep_first)
    with claim(tmp_path) as mine:
        assert not mine
    assert [file.name for file in tmp_path.iterdir()] == ["claim.3"] and holder(tmp_path)
    held.__exit__(None, None, None)


def test_a_full_disk_at_the_end_frees_the_run(tmp_path, monkeypatch):
    def full(*_):
        raise UserError("the disk is full")

    with claim(tmp_path):
        monkeypatch.setattr(heartbeat, "write_atomic", full)
    assert holder(tmp_path) is None and newest(tmp_path) == 0


@pytest.mark.parametrize("text", ["soon", "0", "-3", "inf", "nan"])
def test_the_time_must_be_one(tmp_path, monkeypatch, text):
    monkeypatch.setenv(claims.SILENCE_VARIABLE, text)
    with pytest.raises(UserError, match="CLAIM_SILENCE must be a number of seconds above 0"), claim(tmp_path):
        pass


@pytest.fixture
def trained(monkeypatch):
    """The ids of the runs that a worker carries out; each is said to be done."""
    ids = []

    def run_seeds(configs, before_writing, live=None):
        before_writing()
        for config in configs:
            ids.append(config.id)
            ResultStore(config.results_dir).path(config.id).write_text("{}")

    monkeypatch.setattr("modules.training.run.run_seeds", run_seeds)
    return ids


def test_a_worker_does_at_last_what_a_silent_machine_has_left(command, trained, monkeypatch, capfd):
    """And leaves a run alone whose holder gives signs of life, here after its first look."""
    first, second, third = planned([*command, "--seeds", "0,1,2"], "head")
    claimed_elsewhere(first.folder, silence=0.3)
    alive = claimed_elsewhere(second.folder, silence=0.3)
    sleep = time.sleep

    def beat(seconds):
        alive.write_text(alive.read_text() + " ")
        sleep(seconds)

    monkeypatch.setattr(claims, "time", SimpleNamespace(sleep=beat, monotonic=time.monotonic))
    assert worker.main([first.results_dir, first.id, second.id, third.id]) == 0
    assert trained == [third.id, first.id]
    assert "no sign of life from another command (process" in capfd.readouterr().err


def test_a_worker_whose_run_was_taken_over_says_so_and_writes_nothing(command, trained, monkeypatch, capfd):
    first, second = planned([*command, "--seeds", "0,1"], "head")
    check = claims.Claim.check

    def overtaken(mine):
        if mine._beat.path.parent == first.folder:
            claimed_elsewhere(first.folder)
        check(mine)

    monkeypatch.setattr(claims.Claim, "check", overtaken)
    monkeypatch.setattr(worker, "given_up", lambda folders: [])
    assert worker.main([first.results_dir, first.id, second.id]) == 1
    assert trained == [second.id]
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: rte head seed 0 was taken over by another command (process") and " on b, " in line


def test_a_run_that_may_not_write_leaves_no_file(command):
    from modules.training.run import run_seeds

    def refuse():
        raise ClaimLost("was taken over")

    (run,) = planned(command, "head")
    with pytest.raises(ClaimLost):
        run_seeds([run], before_writing=refuse)
    assert [path.name for path in run.folder.rglob("*")] == ["config.json"]


@pytest.mark.slow
def test_every_run_is_done_once_by_processes_that_are_killed(tmp_path):
    numbers = {"processes": 4, "runs": 16, "kills": 6, "stops": 0, "machines": 1}
    seconds = {"seconds": 0.15, "silence": 30.0, "every": 0.1, "limit": 60.0}
    found = stress(tmp_path, argparse.Namespace(**numbers, **seconds))
    assert found == {"runs": 16, "done": 16, "twice": 0, "together": 0, "lost": 0, "kills": 6, "suspended": 0}


def test_a_process_of_the_worker_asks_whether_the_worker_still_holds_the_run(tmp_path):
    """As the ranks of a run do, before they write."""
    with claim(tmp_path):
        check_claim(tmp_path, os.getpid())
        content = json.loads((tmp_path / "claim.1").read_text())
        (tmp_path / "claim.2").write_text(json.dumps(content | {"worker": 1, "host": "other", "machine": "other"}))
        with pytest.raises(ClaimLost, match="taken over by another command .* on other"):
            check_claim(tmp_path, os.getpid())


def test_a_folder_that_was_removed_is_not_called_taken_over(tmp_path):
    with claim(tmp_path / "a") as mine:
        assert mine
        shutil.rmtree(tmp_path / "a")
        with pytest.raises(ClaimLost, match="lost its claim, which was removed from"):
            check_claim(tmp_path / "a", os.getpid())
