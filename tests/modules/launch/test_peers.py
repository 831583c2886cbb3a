"""Ranks on several machines: one whose machine has gone leaves none waiting."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest

from modules.launch import peers
from modules.launch.heartbeat import Heartbeat
from modules.runs.ranks import BY_WORKER


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of two ranks of which this process is the first; ``ended`` says with which code it would have ended."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv(BY_WORKER, raising=False)
    monkeypatch.setenv(peers.SILENCE_VARIABLE, "0.4")
    config = SimpleNamespace(title="mrpc lora seed 0", folder=tmp_path, trainer={"num_nodes": 2}, ended=[])
    monkeypatch.setattr(os, "_exit", config.ended.append)
    return config


def other(run) -> Heartbeat:
    return Heartbeat(run.folder / peers.FOLDER / "1.json", 0.03, {"host": "node7"})


def test_a_rank_that_gives_no_sign_is_named_and_this_one_ends(run, capsys):
    with peers.watching_peers(run):
        with other(run):
            time.sleep(0.6)
        assert not run.ended, "it beats"
        until = time.monotonic() + 20
        while not run.ended and time.monotonic() < until:
            time.sleep(0.02)
    assert run.ended[0] == 1
    line = "error: rank 1 of mrpc lora seed 0 on node7 has given no sign of life for 0.4 s, and rank 0 ends; the same"
    assert capsys.readouterr().err.startswith(line)


@pytest.mark.parametrize("case", ["done", "earlier try", "not there yet"])
def test_who_is_done_or_has_not_come_yet_is_not_silent(run, case, capsys):
    (run.folder / peers.FOLDER).mkdir()
    if case == "earlier try":
        other(run).beat()
    with peers.watching_peers(run):
        if case == "done":
            with other(run) as peer:
                time.sleep(0.1)
            peer.beat(done=True)
        told, until = "", time.monotonic() + (0.5 if case == "done" else 20)
        while not told and time.monotonic() < until:
            time.sleep(0.05)
            told = capsys.readouterr().err
        time.sleep(0.5)
    assert not run.ended
    late = "" if case == "done" else "mrpc lora seed 0: rank 0 still waits for rank 1 to begin, at most 1800 s; "
    assert told.partition("what")[0] == late and not capsys.readouterr().err, "said once"
    assert '"done": true' in (run.folder / peers.FOLDER / "0.json").read_text()


def test_a_rank_that_was_stopped_itself_counts_anew(run):
    watch = peers._Watch(run)
    with other(run):
        watch._look()
    watch._looked -= 1.0
    time.sleep(0.5)
    watch._look()
    watch._looked = time.monotonic()
    watch._look()
    assert not run.ended
    time.sleep(0.5)
    watch._looked = time.monotonic()
    watch._look()
    assert run.ended == [1], "and still knows that the other one came"


def test_nobody_beats_where_a_worker_watches_all_ranks(run, monkeypatch):
    monkeypatch.setenv(BY_WORKER, "2")
    run.trainer = {"devices": 2}
    with peers.watching_peers(run):
        assert not (run.folder / peers.FOLDER).exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    run.trainer = {"num_nodes": 2}
    with peers.watching_peers(run):
        assert not (run.folder / peers.FOLDER).exists()


def test_no_rank_goes_on_to_the_next_run_before_all_are_done(run, monkeypatch):
    met = []
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.barrier", lambda: met.append("all"))
    with peers.watching_peers(run):
        assert not met
    assert met == ["all"]
