"""Whose a run is: claims in its folder, on which all machines agree that share the file system.

A claim is a numbered file, ``claim.7``; the highest number holds the run. It is taken by creating the next number,
which only one of several can do (`variants.atomic.write_new`). Nothing of another process is renamed, replaced or
locked, so that neither locks nor clocks of the machines must be right. The file is its holder's alone, who rewrites it
at intervals, and at the end as released. It stays there: a number is never given twice.

The next number may be taken where the last claim

- is released;
- is that of a process of this machine which has ended: known at once;
- is another machine's, was watched from here for `SILENCE` seconds and did not change. If its holder was suspended or
  cut off, it sees the higher number at its next beat, and writes no result.

An NFS client may show a folder as it was up to a minute ago, but not when it has just created a file there. The folder
is therefore read again after each creation and each beat, and whoever sees a higher number than its own has lost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from modules.documents import read_json
from modules.launch.heartbeat import Heartbeat, Observer
from modules.launch.machine import runs, started, this_machine
from modules.processes import WITH_PARENT
from modules.runs.ranks import rank, seconds
from variants.atomic import remove_leftovers, write_new
from variants.errors import UserError
from variants.schema import built

SILENCE_VARIABLE = "LORA_VARIANTS_CLAIM_SILENCE"
SILENCE, BEATS = 180.0, 12
"""Seconds without a sign of life after which other machines take a run over, and how many beats are due in them.

An NFS server that loses a client lets the others' beats wait until that client's lease is over (90 s on Linux) and a
little longer: they must not be taken for lost as well.
"""
TRIES = 20
"""How often others may be faster, with claims that they release again at once."""


@dataclass
class Holder:
    """What a claim says: the command, its worker, on which machine, since when; ``until`` in one that is released."""

    command: int
    worker: int
    host: str
    since: str
    machine: str = ""
    started: int | None = None
    silence: float = SILENCE
    token: str = ""
    beat: int = 0
    until: str | None = None

    @classmethod
    def here(cls) -> Holder:
        """This process. Raises UserError on a setting of `SILENCE_VARIABLE` that is no time."""
        command, worker = os.environ.get(WITH_PARENT, ""), os.getpid()
        return cls(
            command=int(command) if command.isdigit() else worker,
            worker=worker,
            host=platform.node(),
            since=_now(),
            machine=this_machine(),
            started=started(worker),
            silence=seconds(SILENCE_VARIABLE, SILENCE),
            token=secrets.token_hex(8),
        )

    def runs(self) -> bool | None:
        """Whether its process still runs; None where only its beats can tell."""
        return runs(self.machine, self.worker, self.started)

    def __str__(self) -> str:
        return f"another command (process {self.command} on {self.host}, since {self.since})"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class ClaimLost(Exception):
    """Others have taken the run over: what this process computes of it is not to be written."""


class Claim:
    """What `claim` gives: true where the run is this process's, or that of the first of several ranks.

    Attributes:
        lost: whether the last beat saw that others have taken the run over.
    """

    def __init__(self, mine: bool, path: Path | None = None, holder: Holder | None = None) -> None:
        self.lost, self._mine, self._beat = False, mine, None
        if path and holder:
            interval = holder.silence / BEATS
            self._beat = Heartbeat(path, interval, dataclasses.asdict(holder), self._look)

    def __bool__(self) -> bool:
        return self._mine

    def check(self) -> None:
        """Beat and look now: to be called before a file is written that a taker writes too. Raises ClaimLost."""
        if self._beat and not self.lost:
            with contextlib.suppress(UserError):  # where no beat can be written, no result can be either
                self._beat.beat()
            self._look()
        if self._beat and self.lost:
            raise _lost(self._beat.path.parent)

    def _look(self) -> None:
        if self._beat and newest(self._beat.path.parent) > _number(self._beat.path):
            self.lost = True
            self._beat.stop()
            with contextlib.suppress(OSError):
                self._beat.path.unlink(missing_ok=True)

    def _release(self) -> None:
        if not self._beat:
            return
        self._beat.stop()
        if not self.lost:
            try:
                self._beat.beat(until=_now())
            except UserError:  # a full disk; without the file the run is free too
                with contextlib.suppress(OSError):
                    self._beat.path.unlink(missing_ok=True)
        self._look()


def check_claim(folder: Path, worker: int) -> None:
    """`Claim.check` in a process that a worker has started: it beats itself. Raises ClaimLost."""
    found = last_holder(folder)
    if not found or (found.worker, found.machine) != (worker, this_machine()):
        raise _lost(folder)


def _lost(folder: Path) -> ClaimLost:
    if not newest(folder):
        return ClaimLost(f"lost its claim, which was removed from {folder}: nothing more is written")
    others = holder(folder) or "another command"
    return ClaimLost(f"was taken over by {others}, which saw no sign of life from here: nothing more is written")


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[Claim]:
    """Claim the run in ``folder`` for this process while the block lasts: false where others are at it.

    Only the first of several ranks claims; the others belong to that one. What a killed process of this machine left
    half-written in the folder is removed.

    Raises:
        UserError: the folder cannot be written, or `SILENCE_VARIABLE` is no time.
    """
    mine = _take(folder) if rank() == 0 else Claim(True)
    try:
        if mine._beat:
            mine._beat.start()
        yield mine
    finally:
        mine._release()


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """``with alone(folder):`` one command at a time, on whatever machine; the others wait."""
    while True:
        with claim(folder) as mine:
            if mine:
                yield
                return
        time.sleep(1)


def _take(folder: Path) -> Claim:
    folder.mkdir(parents=True, exist_ok=True)
    me = Holder.here()
    for _ in range(TRIES):
        number = newest(folder)
        if _held(folder, number):
            return Claim(False)
        path = folder / f"claim.{number + 1}"
        if write_new(path, json.dumps(dataclasses.asdict(me)).encode()):
            break
    else:
        return Claim(False)
    if newest(folder) > number + 1:  # this process slept since its look, and others have had the run
        path.unlink(missing_ok=True)
        return Claim(False)
    for old in _claims(folder):
        if _number(old) <= number:
            old.unlink(missing_ok=True)
    for inner in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        remove_leftovers(inner)
    with contextlib.suppress(OSError):
        os.utime(folder.parent)  # an NFS client looks anew for the result, which others may just have written
    return Claim(True, path, me)


def _claims(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in os.listdir(folder) if name.startswith("claim.") and name[6:].isdecimal()]
    except OSError:
        return []


def _number(path: Path) -> int:
    return int(path.name[6:])


def newest(folder: Path) -> int:
    """The highest number of a claim in ``folder``; 0 where there is none."""
    return max(map(_number, _claims(folder)), default=0)


def last_holder(folder: Path) -> Holder | None:
    """What the newest claim says, released or not; None where there is none, or none that can be read."""
    return _read(folder, newest(folder))


def _read(folder: Path, number: int) -> Holder | None:
    path = folder / f"claim.{number}"
    try:
        return built(Holder, read_json(path), str(path))
    except (OSError, UserError):
        return None


_watched: dict[Path, Observer] = {}
"""Claims whose holders cannot be asked, watched since this process first met them."""


def _held(folder: Path, number: int) -> bool:
    """Whether the claim of that number, the newest one, holds."""
    found = _read(folder, number) if number else None
    if not number or (found and found.until):
        return False
    alive = found.runs() if found else None
    if alive is None:
        path = folder / f"claim.{number}"
        if path not in _watched:
            _watched[path] = Observer(path)
        return _watched[path].silent_for() <= (found.silence if found else SILENCE)
    return alive


def holder(folder: Path) -> str | None:
    """Who works on the run in ``folder``: ``another command (process 7 on host, since ...)``; None if nobody does."""
    number = newest(folder)
    return str(_read(folder, number) or "another command") if _held(folder, number) else None


def given_up(folders: Sequence[Path]) -> list[Path]:
    """Those of the runs that were other machines' and are free now; at once where none was.

    Waits until each of their holders has given a sign of life, or none for so long that it counts as gone, and says so
    where that takes longer than two beats.
    """
    unsure: dict[Path, tuple[int, int]] = {}
    for folder in folders if rank() == 0 else ():
        number = newest(folder)
        _held(folder, number)
        if observer := _watched.get(folder / f"claim.{number}"):
            unsure[folder] = number, observer.changes
    patience = max((found.silence for folder in unsure if (found := last_holder(folder))), default=SILENCE)
    free, begin, said = [], time.monotonic(), False
    while unsure and time.monotonic() < begin + 1.5 * patience:
        for folder, (number, changes) in list(unsure.items()):
            if not _held(folder, newest(folder)):
                free.append(folder)
            elif newest(folder) == number and _watched[folder / f"claim.{number}"].changes == changes:
                continue
            del unsure[folder]
        if unsure and not said and time.monotonic() > begin + 2 * patience / BEATS:
            said = True
            words = f"no sign of life from {holder(next(iter(unsure)))}: its runs are taken over after {patience:.0f} s"
            print(words, file=sys.stderr, flush=True)
        if unsure:
            time.sleep(min(1.0, patience / BEATS / 4))
    return free
