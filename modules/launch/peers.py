"""Ranks of a run on several machines: each gives signs of life in the run's folder, and none waits for a dead one.

Ranks that a worker has started are its own affair (`ranks.py`). Of those that a launcher started elsewhere nobody may
say that a machine has lost its power: the others would wait in a collective operation until its time-out.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from modules.documents import read_json
from modules.launch.failures import AGAIN
from modules.launch.heartbeat import Heartbeat, Observer
from modules.runs.config import RunConfig
from modules.runs.ranks import BY_WORKER, longest_wait, rank, seconds, world_size
from variants.errors import UserError

SILENCE_VARIABLE = "LORA_VARIANTS_RANKS_SILENCE"
SILENCE = 45.0
"""Seconds without a sign of life after which a rank counts as dead: several times what a slow shared folder takes to
show a file."""
BEATS = 9
"""Signs of life in that time."""
FOLDER = "ranks"
"""Where they are, in a run's folder."""


@contextlib.contextmanager
def watching_peers(config: RunConfig) -> Iterator[None]:
    """Meanwhile this rank gives signs of life, and ends with one line where another has given none for too long.

    It does nothing where there is one rank, or a worker watches all of them.

    Raises:
        UserError: the folder cannot be written, or `SILENCE_VARIABLE` is no time.
    """
    if world_size() == 1 or (BY_WORKER in os.environ and config.trainer.get("num_nodes", 1) == 1):
        yield
        return
    watch = _Watch(config)
    with watch.heartbeat:
        yield
        import torch.distributed as dist  # takes seconds, which the run has spent

        if dist.is_initialized():  # whoever began the next run while the first still writes would meet it there
            dist.barrier()
    with contextlib.suppress(UserError):  # all else has been written
        watch.heartbeat.beat(done=True)  # the last: a rank that failed leaves without it


class _Watch:
    """A rank's sign of life, and how long those of the others have been missing."""

    def __init__(self, config: RunConfig) -> None:
        self.title, self.folder = config.title, config.folder / FOLDER
        self.silence = seconds(SILENCE_VARIABLE, SILENCE)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.heartbeat = Heartbeat(
            self._file(rank()), self.silence / BEATS, {"host": platform.node(), "process": os.getpid()}, then=self._look
        )
        self._came: set[int] = set()
        self._told = False
        self._begin()

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.json"

    def _begin(self) -> None:
        self._looked = time.monotonic()
        self._others = {k: Observer(self._file(k)) for k in range(world_size()) if k != rank()}

    def _look(self) -> None:
        """End where one of the others came in this try and is silent now. A rank that was itself stopped for a while,
        as by SIGSTOP, begins to count anew."""
        now, last = time.monotonic(), self._looked
        self._looked = now
        silent = [number for number, other in self._others.items() if other.silent_for() > self.silence]
        self._came |= {number for number, other in self._others.items() if other.changes}
        if now - last > self.silence / 2:
            self._begin()
            return
        for number in silent:
            if number in self._came and not (said := self._said(number)).get("done"):
                where = f" on {said['host']}" if "host" in said else ""
                print(
                    f"error: rank {number} of {self.title}{where} has given no sign of life for {self.silence:g} s, "
                    f"and rank {rank()} ends; {AGAIN}",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(1)
        late = [number for number in silent if number not in self._came]
        if late and not self._told:
            self._told = True
            others = ", ".join(f"rank {number}" for number in late)
            print(
                f"{self.title}: rank {rank()} still waits for {others} to begin, at most "
                f"{longest_wait().total_seconds():g} s; what the other machines print may say why",
                file=sys.stderr,
                flush=True,
            )

    def _said(self, number: int) -> dict:
        with contextlib.suppress(UserError, OSError):
            return read_json(self._file(number))
        return {}
