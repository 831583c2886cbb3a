"""How the commands of `paper_repro` end: as every command after a mistake of the user's, and when they are stopped."""

from __future__ import annotations

import errno
import signal
import sys
import threading
import typing
from collections.abc import Callable
from typing import Any

from variants import errors


def guarded(command: Callable[[], int]) -> int:
    """Run a command; a mistake of the user's is one line on standard error and exit code 2.

    Args:
        command: returns its exit code.

    Returns:
        The exit code: the command's, 2 after a :class:`UserError`, 130 where a person or a scheduler stopped it.
    """

    def stop(*_: Any) -> typing.NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)  # what a scheduler sends: end as Ctrl-C does, workers included
    try:
        return errors.exit_code(command)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130


def is_user_error(error: BaseException) -> bool:
    """Whether one line says all: a mistake of the user's, or a disk that is full."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return full or isinstance(error, errors.UserError)


def one_line(error: BaseException) -> str:
    """The message of an error on one line."""
    if isinstance(error, OSError) and error.errno:
        return f"cannot write {error.filename or 'a file'}: {error.strerror}; free some space or choose --results_dir"
    return errors.one_line(error)
