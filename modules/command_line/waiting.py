"""A sign of life while a command does what takes seconds: imports of large libraries, data, a model's shapes."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

QUIET = 0.3
"""Seconds before the first sign."""
EVERY = 1.0


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """On a terminal a line with the seconds stands while the block runs, and is gone afterwards; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield
        return
    over, begin = threading.Event(), time.monotonic()

    def draw() -> None:
        pause = QUIET
        while not over.wait(pause):
            sys.stderr.write(f"\r\x1b[K{text} ({time.monotonic() - begin:.0f} s)")
            sys.stderr.flush()
            pause = EVERY
        if pause == EVERY:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
