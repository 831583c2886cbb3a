"""How the commands of `paper_repro` end: as every command after a mistake of the user's, and when they are stopped."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from modules.processes import WITH_PARENT, end_with_parent, lasting_output, leave, stop_on_signals
from variants import errors

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""A disk that is full, or a quota, or one that cannot be written."""


def guarded(command: Callable[[], int]) -> int:
    """Run a command; a mistake of the user's is one line on standard error and exit code 2.

    Args:
        command: returns its exit code.

    Returns:
        The exit code: the command's, 2 after a :class:`UserError`, 130 where a person or a scheduler stopped it, 1
        where its output could not be written.
    """
    if os.environ.get(WITH_PARENT) == str(os.getppid()):
        end_with_parent()
    stop_on_signals()
    with lasting_output() as lost:
        try:
            code = errors.exit_code(lambda: _one_line_where_a_disk_is_full(command))
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on from here", file=sys.stderr)
            code = 130
        if code != 130 and (error := lost()):
            print(f"error: {error}", file=sys.stderr)
            code = code or 1
        return leave(code)


def _one_line_where_a_disk_is_full(command: Callable[[], int]) -> int:
    try:
        return command()
    except OSError as error:
        if is_user_error(error):
            raise errors.UserError(one_line(error)) from error
        raise


def place(text: str) -> Path:
    """The type of an argument that names a file or folder: a person's ~ is written out.

    Raises:
        argparse.ArgumentTypeError: no file can have this name.
    """
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} names no file")
    return Path(text).expanduser()


def is_user_error(error: BaseException) -> bool:
    """Whether one line says all: a mistake of the user's, or a disk that is full."""
    return (isinstance(error, OSError) and error.errno in FULL) or isinstance(error, errors.UserError)


def one_line(error: BaseException) -> str:
    """As :func:`variants.errors.one_line`; of a disk that is full, with its remedy."""
    if isinstance(error, OSError) and error.errno:
        temporary = Path(tempfile.gettempdir())
        if not error.filename or temporary in Path(str(error.filename)).absolute().parents:
            remedy = f"free some space on its disk or in {temporary}, or name another folder by TMPDIR or --results_dir"
        else:
            remedy = "free some space or choose --results_dir"
        return f"cannot write {error.filename or 'a file'}: {error.strerror}; {remedy}"
    return errors.one_line(error)
