"""The ranks of a run as processes of this machine: started together, watched, and ended at the first that fails."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from modules.launch.failures import Failure
from modules.processes import TERMINAL, WITH_PARENT, end, not_interrupted, on_terminal
from modules.runs.config import RunConfig
from modules.runs.ranks import BY_WORKER, local_ranks
from variants.start import python

GRACE = 10.0
"""Seconds after one rank has lost the others in which the one that ended before it may be found: the end of a process
that used a GPU takes a while."""


class RanksFailed(Exception):
    """A rank of a run failed, and the others were ended."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.line)
        self.failure = failure


def run_in_ranks(config: RunConfig) -> None:
    """Carry out a run in as many processes as its Trainer options ask for, and wait for them.

    Raises:
        RanksFailed: the first rank that failed; what the others said after that is not shown.
    """
    ranks: list[_Rank] = []
    failure = None
    try:
        with not_interrupted():
            ranks += (
                _Rank(config, each, lambda: any(r.process.poll() for r in ranks)) for each in environments(config)
            )
        failure = _first_failure(ranks)
    finally:
        end([rank.process for rank in ranks])
        for rank in ranks:
            rank.close()
    if failure:
        raise RanksFailed(failure)


def environments(config: RunConfig) -> Iterator[dict[str, str]]:
    """What each rank of this machine finds in its environment, as Lightning's `LightningEnvironment` reads it.

    Where a run goes over several machines without a launcher, ``NODE_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT`` are
    the caller's.
    """
    count, machines = local_ranks(config.trainer), config.trainer.get("num_nodes", 1)
    meeting = {"NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    if machines > 1:
        meeting |= {name: os.environ[name] for name in meeting if name in os.environ}
    for k in range(count):
        yield (
            os.environ
            | meeting
            | {
                BY_WORKER: str(count),
                WITH_PARENT: str(os.getpid()),
                TERMINAL: str(int(on_terminal())),
                "LOCAL_RANK": str(k),
                "RANK": str(int(meeting["NODE_RANK"]) * count + k),
                "WORLD_SIZE": str(count * machines),
            }
        )


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at, for ranks to meet."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class _Rank:
    """A process, and the pipe through which it tells why it failed.

    What it writes on standard error is passed on, but not once a rank has failed: it would be of that.
    """

    def __init__(self, config: RunConfig, environment: dict[str, str], one_failed: Callable[[], bool]) -> None:
        self.who = f"rank {environment['RANK']} of {config.title}"
        self._one_failed, self._told = one_failed, b""
        self._report, report = os.pipe()
        command = python("modules.launch.rank", config.results_dir, config.id, str(report))
        try:
            self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, pass_fds=(report,))
        finally:
            os.close(report)
        self._reader = threading.Thread(target=self._pass_on, daemon=True)
        self._reader.start()

    def _pass_on(self) -> None:
        while content := self.process.stderr.read1(65536):
            if not self._one_failed():
                sys.stderr.write(content.decode(errors="replace"))
                sys.stderr.flush()

    def failure(self) -> Failure | None:
        """Why it failed; None while it runs and where it did not fail."""
        if not self.process.poll():
            return None
        os.set_blocking(self._report, False)  # a process that it has started may hold the pipe still
        with contextlib.suppress(BlockingIOError):
            self._told += os.read(self._report, 2**20)
        return Failure.read(self._told) or Failure.of_code(self.process.returncode, self.who)

    def close(self) -> None:
        """After its end: all that it wrote has been passed on."""
        self._reader.join(1.0)
        os.close(self._report)


def _first_failure(ranks: Sequence[_Rank]) -> Failure | None:
    """Wait until all ranks have ended well, or one has failed: why. A rank that lost the others is not to blame, if
    another one ended before, or does within ``GRACE``."""
    lost, until = None, 0.0
    while True:
        running = [rank for rank in ranks if rank.process.poll() is None]
        failures = [failure for rank in ranks if (failure := rank.failure())]
        if own := [failure for failure in failures if not failure.lost]:
            return min(own, key=lambda failure: bool(failure.traceback))  # who was killed explains the others' errors
        if failures and not lost:
            lost, until = failures[0], time.monotonic() + GRACE
        if not running or (lost and time.monotonic() > until):
            return lost
        time.sleep(0.05)
