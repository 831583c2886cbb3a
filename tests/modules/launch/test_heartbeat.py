"""Signs of life: seen while a process beats, missed when it no longer does."""

from __future__ import annotations

import json
import threading
import time
from types import SimpleNamespace

import pytest

from modules.launch import heartbeat
from modules.launch.heartbeat import Heartbeat, Observer
from variants.errors import UserError


@pytest.fixture
def clock(monkeypatch):
    """The observer's clock, in seconds: set by the test."""
    now = [100.0]
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_the_file_counts_on_while_it_beats_and_not_afterwards(tmp_path):
    path, calls = tmp_path / "beat.json", []
    third = threading.Event()

    def then() -> None:
        calls.append(json.loads(path.read_text())["beat"])
        if len(calls) == 3:
            third.set()

    with Heartbeat(path, 0.01, {"rank": 1}, then):
        assert path.is_file(), "the first beat is there at once"
        assert third.wait(10)
    last = path.read_text()
    assert calls[:3] == [2, 3, 4] and json.loads(last) == {"rank": 1, "beat": calls[-1]}
    time.sleep(0.05)
    assert path.read_text() == last and [file.name for file in tmp_path.iterdir()] == ["beat.json"]


def test_a_beat_that_cannot_be_written_is_left_out(tmp_path, monkeypatch):
    """The first one is told of; a later one may be a passing fault of the network."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        Heartbeat(tmp_path / "file" / "beat.json", 1.0).start()
    after, write = threading.Event(), heartbeat.write_atomic
    with Heartbeat(tmp_path / "beat.json", 0.01) as beat:

        def fails(*_):
            beat._then = after.set
            monkeypatch.setattr(heartbeat, "write_atomic", write)
            raise UserError("gone for a moment")

        monkeypatch.setattr(heartbeat, "write_atomic", fails)
        assert after.wait(10)
        seen = Observer(tmp_path / "beat.json")
        deadline = time.monotonic() + 10
        while not seen.changes and time.monotonic() < deadline:
            seen.silent_for()
        assert seen.changes


def test_silence_is_counted_from_the_last_change(tmp_path, clock):
    path = tmp_path / "beat.json"
    beat = Heartbeat(path, 1.0)
    beat.beat()
    observer = Observer(path)
    assert (observer.silent_for(), observer.changes) == (0.0, 0), "an old file is no silence yet"
    clock[0] += 20
    assert observer.silent_for() == 20
    beat.beat()
    assert (observer.silent_for(), observer.changes) == (0.0, 1)
    path.unlink()
    observer.silent_for()
    clock[0] += 7
    assert observer.silent_for() == 7, "a file that is gone stays silent"


def test_an_observer_that_could_not_look_counts_no_silence(tmp_path, clock, monkeypatch):
    """Suspended in the middle of a look, or kept waiting by the file system: the holder may have been so too."""
    path = tmp_path / "beat.json"
    Heartbeat(path, 1.0).beat()
    observer, read = Observer(path), type(path).read_bytes
    clock[0] += 10
    monkeypatch.setattr(type(path), "read_bytes", lambda file: (clock.__setitem__(0, clock[0] + 600), read(file))[1])
    assert observer.silent_for() < 60
    monkeypatch.setattr(type(path), "read_bytes", read)
    clock[0] += 3
    assert observer.silent_for() == 3

    def fails(file):
        raise PermissionError

    monkeypatch.setattr(type(path), "read_bytes", fails)
    clock[0] += 600
    assert observer.silent_for() == 0.0
