"""Who holds runs, in words: for the command whose runs others carry out, and for `--force`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.launch.claims import claim, given_up, holder, last_holder
from modules.launch.machine import this_machine
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore
from variants.errors import UserError


def last_held_by(process: int, results_dir: str, ids: Sequence[str]) -> list[str]:
    """Titles of the runs that a worker of this machine, which has ended, was at."""
    titles = []
    for id in ids:
        with contextlib.suppress(OSError, ValueError, UserError):
            config = RunConfig.read(results_dir, id)
            found = last_holder(config.folder)
            mine = found and found.worker == process and found.machine == this_machine() and not found.until
            if mine and not ResultStore(results_dir).path(id).is_file():
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

    given_up([run.folder for run in runs])  # a machine that is gone refuses nothing
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
