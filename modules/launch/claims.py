"""Who works on a run: a lock in its folder, which ends with its process, and who holds it, in words."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

from modules.processes import WITH_PARENT
from modules.runs.config import RunConfig
from modules.runs.ranks import rank
from modules.runs.results import ResultStore
from variants.atomic import remove_leftovers
from variants.errors import UserError

LOCK = "lock"
"""File name of the lock, in the folder of a run."""
TRIES, PAUSE = 5, 0.05  # `holder` has the lock for a moment


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[bool]:
    """Whether this process may work on the run in ``folder``: the lock ends with the process, however it ends.

    Only the first of several ranks takes it; the others belong to that one. What a killed one left half-written in the
    folder is removed.
    """
    if rank() != 0 or os.environ.get("LORA_VARIANTS_NO_LOCK"):
        yield True
        return
    folder.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666), "r+", encoding="utf-8") as file:
        if not any(_locked(file, exclusive=True) or time.sleep(PAUSE) for _ in range(TRIES)):
            yield False
            return
        file.truncate()
        file.write(json.dumps(_self()))
        file.flush()
        for inner in (folder, *(path for path in folder.iterdir() if path.is_dir())):
            remove_leftovers(inner)
        yield True


def _self() -> dict[str, Any]:
    """What a lock says of its holder: the command, its worker, the machine, and the time."""
    command = os.environ.get(WITH_PARENT, "")
    return {
        "command": int(command) if command.isdigit() else os.getpid(),
        "worker": os.getpid(),
        "host": platform.node(),
        "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _locked(file: TextIO, exclusive: bool) -> bool:
    """Whether the lock is this process's now; always, on a system without such locks: one worker at a time there."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def holder(folder: Path) -> str | None:
    """Who works on the run in ``folder``: ``another command (process 7 on host, since ...)``; None if nobody does."""
    try:
        with open(folder / LOCK, encoding="utf-8", errors="replace") as file:
            if _locked(file, exclusive=False):
                return None
            found = _content(file.read())
    except OSError:
        return None
    if not found:
        return "another command"
    return f"another command (process {found['command']} on {found['host']}, since {found['since']})"


def _content(text: str) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict) and {"command", "worker", "host", "since"} <= found.keys():
            return found
    return None


def last_held_by(process: int, results_dir: str, ids: Sequence[str]) -> list[str]:
    """Titles of the runs that a worker, which has ended, was at."""
    titles = []
    for id in ids:
        with contextlib.suppress(OSError, ValueError, UserError):
            config = RunConfig.read(results_dir, id)
            found = _content((config.folder / LOCK).read_text(encoding="utf-8"))
            if found and found["worker"] == process and not ResultStore(results_dir).path(id).is_file():
                titles.append(config.title)
    return titles


def say_what_is_missing(runs: Sequence[RunConfig], results_dir: str | Path) -> int:
    """Say which of the runs have no result because others are at them; 1 where any has none, else 0."""
    store = ResultStore(results_dir)
    missing = [run for run in runs if not store.done(run.id)]
    held: dict[str, list[str]] = {}
    for run in missing:
        if words := holder(run.folder):
            held.setdefault(words, []).append(run.title)
    for words, titles in held.items():
        some = ", ".join(titles[:3]) + (", ..." if len(titles) > 3 else "")
        print(
            f"{words} is training {len(titles)} of these {len(runs)} runs ({some}): "
            "the table is without them; the same command shows them when they are done",
            file=sys.stderr,
            flush=True,
        )
    return 1 if missing else 0


def forget(runs: Sequence[RunConfig], store: ResultStore) -> None:
    """Remove results and checkpoints, so that the runs are done anew. Raises UserError where others are at one."""

    def refuse(run: RunConfig) -> None:
        raise UserError(
            f"--force: {run.title} is being trained by {holder(run.folder) or 'another command'}: "
            "wait for it, or stop it first"
        )

    for run in runs:
        if holder(run.folder):
            refuse(run)
    for run in runs:
        with claim(run.folder) as mine:
            if not mine:
                refuse(run)
            store.path(run.id).unlink(missing_ok=True)
            for checkpoint in run.folder.glob("*.ckpt"):  # without it nothing of an earlier try is taken up
                checkpoint.unlink(missing_ok=True)
