"""How the commands of `paper_repro` end: as every command after a mistake of the user's, and when they are stopped."""

from __future__ import annotations

import signal
import sys
import threading
import typing
from collections.abc import Callable
from typing import Any

from variants import errors


def guarded(command: Callable[[], int]) -> int:
    """Run a command; its exit code.

    A mistake of the user's is one line on standard error and exit code 2; Ctrl-C, or SIGTERM, is code 130.
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
