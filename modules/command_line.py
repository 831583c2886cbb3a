"""How every command ends: its exit code, and a mistake of the user's as one line."""

from __future__ import annotations

import signal
import sys
import threading
import typing
from collections.abc import Callable
from typing import Any

from variants.errors import UserError


def guarded(command: Callable[[], int]) -> int:
    """Run a command; a mistake of the user's is one line on standard error and exit code 2."""

    def stop(*_: Any) -> typing.NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)  # what a scheduler sends: end as Ctrl-C does, workers included
    try:
        return command()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
