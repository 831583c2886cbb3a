"""Mistakes that a person can mend: each is shown as one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake the person at the keyboard can mend.

    The message is one line: what is wrong, where, and how to mend it. The command line prints it
    without a traceback and exits with code 2.
    """


class VariantError(UserError, ValueError):
    """A hyperparameter, target or adapter file that cannot work."""


LONGEST = 300
"""Characters of a message."""


def one_line(error: BaseException | str) -> str:
    """A message, or that of an error, as a person is shown it: one line, of a long one the beginning and the end."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 103]} … {text[-100:]}"


def shown(value: object) -> str:
    """A value in a message: as Python writes it, of a long one the beginning (60 characters at most)."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def first_line(error: BaseException) -> str:
    """The first line of an error's text with its type, at most 300 characters, for a message of one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}"[:LONGEST] if lines else type(error).__name__


def exit_code(command: Callable[[], int]) -> int:
    """Run a command; its exit code, which is 2 after a mistake of the user's: that is one line on standard error."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by `>&-`: what is written goes nowhere
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (as long as the process)
    try:
        code = command()
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` has read enough; nothing may be written when Python ends either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
