"""How processes of the project end: with the one that started them, stopped by signals, with nobody to read them."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn, TextIO

WITH_PARENT = "LORA_VARIANTS_WITH_PARENT"
"""Variable that names the process with which a command that it starts shall end."""
TERMINAL = "LORA_VARIANTS_TERMINAL"
"""Variable that tells a process whose standard error is passed on whether a person watches it: 1 or 0."""
PATIENCE = 10.0
"""Seconds that a process has to end after SIGTERM."""
STOPPING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""What a person, a terminal or a scheduler sends to stop a command."""
IMPATIENCE = 2.0  # seconds in which a second signal is the same wish, and changes nothing


def stop_on_signals() -> None:
    """From here on signals of ``STOPPING`` end the command as Ctrl-C does: by KeyboardInterrupt, so that workers are
    ended too. Signals that are ignored already (nohup, a shell's background job) stay so."""
    if threading.current_thread() is not threading.main_thread():
        return
    first: list[float] = []

    def stop(*_: Any) -> None:
        if not first or time.monotonic() - first[0] > IMPATIENCE:
            first[:] = [time.monotonic()]
            raise KeyboardInterrupt

    for name in STOPPING:
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:
            signal.signal(getattr(signal, name), stop)


@contextlib.contextmanager
def not_interrupted() -> Iterator[None]:
    """What is started meanwhile gets neither Ctrl-C of the terminal nor a scheduler's warning: the command alone does,
    and ends its workers. One that comes meanwhile comes afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(parent: int | None = None) -> None:
    """From here on this process is killed as soon as the one that started it has ended, however that ended.

    What it writes is whole or not there, so that it may be killed at any time.

    Args:
        parent: the number of the process that started it; by default the one that is its parent now.
    """
    parent = parent or os.getppid()
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it ended before
        os._exit(1)
    if sys.platform != "linux":
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def end(processes: Sequence[subprocess.Popen]) -> None:
    """End those that still run: by SIGTERM, and after ``PATIENCE`` by SIGKILL."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def on_terminal() -> bool:
    """Whether standard error is a terminal, or is passed on to one."""
    return sys.stderr.isatty() or os.environ.get(TERMINAL) == "1"


_abandoned: list[threading.Thread] = []


def abandon(thread: threading.Thread) -> None:
    """Wait no more for a thread that may hang: `leave` ends the process without it."""
    _abandoned.append(thread)


def leave(code: int) -> int:
    """The exit code of a command that ends now; where abandoned threads still run, the process ends here.

    The threads that such a thread has started would be waited for when Python ends.
    """
    if any(thread.is_alive() for thread in _abandoned):
        end_now(code)
    return code


def end_now(code: int) -> NoReturn:
    """End this process without tidying up, which may wait for what does not come: a thread, or another rank."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    os._exit(code)


class _Lasting:
    """A text stream that goes on into nothing where its reader has gone or its disk is full."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.error = self.error or error
        with contextlib.suppress(OSError, ValueError):  # for libraries and processes that write there themselves too
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lasting_output() -> Iterator[Callable[[], str | None]]:
    """Training does not end because nobody reads what it prints, or because the disk of its log is full.

    Yields:
        What to ask at the end: the error in one line, where output was lost though somebody was to read it.
    """
    before = sys.stdout, sys.stderr
    mine = [stream and _Lasting(stream) for stream in before]

    def lost() -> str | None:
        for stream in filter(None, mine):
            stream.flush()
        error = mine[0] and mine[0].error
        return None if not error or error.errno == errno.EPIPE else f"the output could not be written: {error.strerror}"

    sys.stdout, sys.stderr = mine
    try:
        yield lost
    finally:
        lost()
        sys.stdout, sys.stderr = before
