"""Signs of life in a shared folder: a process rewrites a small file at intervals, and others see whether it changes.

Only changes count, and only the observer's clock: the clocks of two machines need not agree. Each beat is a new file
under the same name, written and closed before it is renamed, so that NFS shows it to whoever opens the name next.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from variants.atomic import write_atomic
from variants.errors import UserError

SLOW = 5.0
"""Seconds after which a look at the file tells of the file system, or of a suspended observer, and not of silence."""


class Heartbeat:
    """A daemon thread that rewrites a JSON file with a counter: ``with Heartbeat(path, 15.0): ...``.

    A beat that cannot be written is left out: the next one comes.

    Args:
        path: the file, which is this heartbeat's alone.
        interval: seconds between two beats.
        content: what the file says beside ``beat``, the counter.
        then: called in the thread after each beat, written or not.
    """

    def __init__(
        self,
        path: str | Path,
        interval: float,
        content: Mapping[str, Any] | None = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        self.path, self.interval, self.content = Path(path), interval, dict(content or {})
        self._then, self._count = then, 0
        self._writing, self._stopped = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def beat(self, **more: Any) -> None:
        """Beat now; ``more`` goes into the file with the content. Raises UserError where it cannot be written."""
        with self._writing:
            self._count += 1
            write_atomic(self.path, json.dumps({**self.content, **more, "beat": self._count}))

    def start(self) -> Heartbeat:
        """Beat now and then at intervals. Raises UserError where the first beat cannot be written."""
        self.beat()
        self._thread = threading.Thread(target=self._beat_on, name=f"heartbeat {self.path.name}", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Beat no more; the file stays as it is."""
        self._stopped.set()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join()

    def _beat_on(self) -> None:
        while not self._stopped.wait(self.interval):
            with contextlib.suppress(UserError):
                self.beat()
            if self._then:
                self._then()

    def __enter__(self) -> Heartbeat:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class Observer:
    """Sees whether the file of a heartbeat changes.

    Attributes:
        changes: how often it was seen to change since the first look, which is taken at once.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.changes = Path(path), -1
        self._seen: bytes | None = b"nothing yet"
        self._since = time.monotonic()
        self.silent_for()

    def silent_for(self) -> float:
        """Look at the file -> seconds, by this process's monotonic clock, since it was last seen to change.

        A file that is missing does not change; one that cannot be read tells nothing, so that no silence is counted.
        """
        before = time.monotonic()  # what is read is at least as new
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            content = None
        except OSError:
            self._since = time.monotonic()
            return 0.0
        if content != self._seen:
            self._seen, self._since = content, before
            self.changes += 1
        elif time.monotonic() - before > SLOW:  # its holder may have waited for the same file system
            self._since = time.monotonic()
        return max(0.0, before - self._since)
