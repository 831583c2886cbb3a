"""Processes of their own that need not import torch and Lightning again, which takes far longer than a tiny run.

They are forked from a server of `multiprocessing` that has imported both, and has computed nothing. Where how a program
starts is the point, start the program: ``python -m ...``.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["modules.training.run", "modules.benchmarks.text.metrics"])


class Forked(CONTEXT.Process):
    """``function(*arguments)`` in a process; begun when it is made. ``exitcode`` is what the function returns.

    Args:
        environment: all of its environment, as for `subprocess`; by default that of this process.
        output: a file for what it prints, standard error included; by default nothing is kept.
    """

    def __init__(
        self,
        function: Callable[..., int | None],
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
        output: Path | None = None,
    ) -> None:
        _start_server()
        given = dict(os.environ if environment is None else environment)
        work = pickle.dumps((function, arguments))  # tensors as they are, not as torch would share their memory
        super().__init__(target=_begin, args=(work, given, str(output or os.devnull)), daemon=True)
        self.start()

    def wait(self, timeout: float = 240) -> int:
        """Its exit code, the negative number of the signal that ended it; it is killed when the time is up."""
        self.join(timeout)
        if self.exitcode is None:
            self.kill()
            self.join()
            raise TimeoutError(f"not done after {timeout} s")
        return self.exitcode


@functools.cache
def _start_server() -> None:
    """It finds this checkout's packages first, whatever is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        forkserver.ensure_running()


def _begin(work: bytes, environment: dict[str, str], output: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    with contextlib.suppress(AttributeError):  # what is printed is there at once, for who waits for it
        sys.stdout.reconfigure(line_buffering=True)
    function, arguments = pickle.loads(work)
    sys.exit(function(*arguments))
