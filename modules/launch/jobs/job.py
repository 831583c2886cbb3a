"""What a job of `--launch` carries out: a worker for a run, or for seeds that are stacked, wherever the job runs."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from modules.launch.pool import run_workers
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore

GRACE = 900.0
"""Seconds that a job which SLURM has warned (SIGTERM) waits for its end: it is cancelled or queued again before."""


@dataclass
class WorkerJob:
    """A callable that submitit pickles, and calls in the job.

    SLURM's warning before the end of the time, or of preemption, is submitit's signal (USR2): it asks `checkpoint` for
    what goes on later, queues the job again and ends this process, and with it the workers. A run goes on from its last
    whole epoch, so that there is nothing to save.

    Attributes:
        results_dir: the folder of runs and tables.
        word: an id, or ``ID+ID`` for seeds that are stacked.
        environment: variables of the job; None for one that shall not be set.
        command: the process with which the job ends, where it is on the same machine.
    """

    results_dir: str
    word: str
    environment: dict[str, str | None] = field(default_factory=dict)
    command: int | None = None

    def __call__(self) -> None:
        for name, value in self.environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        code = self._local(self.command) if self.command else self._slurm()
        if code:
            sys.exit(code)  # no traceback: the worker has said what happened

    def checkpoint(self) -> Any:
        """What is queued again, as submitit asks for it."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _local(self, command: int) -> int:
        """The exit code; 130 where the command has ended the job, or has ended itself."""

        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, stop)
        threading.Thread(target=_end_after, args=(command,), daemon=True).start()
        try:
            return self._work()
        except KeyboardInterrupt:
            return 130

    def _slurm(self) -> int:
        """The exit code."""
        warned = []
        signal.signal(signal.SIGTERM, lambda *_: warned.append(True))  # it has reached the workers too
        code = self._work()
        if warned and not self._done():
            time.sleep(GRACE)
        return code

    def _work(self) -> int:
        trainer = RunConfig.read(self.results_dir, self.word.partition("+")[0]).trainer
        return run_workers([self.word], self.results_dir, 1, trainer, "+" in self.word)

    def _done(self) -> bool:
        store = ResultStore(self.results_dir)
        return all(store.path(id).is_file() for id in self.word.split("+"))


def _end_after(process: int) -> None:
    """End this process as soon as another has ended, however that ended."""
    while True:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(1)
