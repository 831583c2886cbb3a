"""A headless Chromium, driven through the DevTools protocol over a pipe: no driver program, no port, no network.

with browser(width=1200, height=800) as page:
    page.open(path)
    page.value("document.title")
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
    "--remote-debugging-pipe", "--disable-extensions", "--disable-background-networking",
)  # fmt: skip
SECONDS = 60.0
"""The longest that an answer may take."""


class Page:
    """A tab.

    Attributes:
        problems: texts of console errors and exceptions since the page was opened.
        requests: addresses that the page asked for.
    """

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write, self._rest = read, write, b""
        self._numbers, self._session = itertools.count(1), None
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a command of the protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            found = self._message()
            if found.get("id") == number:
                assert "error" not in found, (method, found["error"])
                return found["result"]
            self._note(found)

    def _message(self) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "Chromium does not answer"
            content = os.read(self._read, 1 << 20)
            assert content, "Chromium has ended"
            self._rest += content
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)

    def _note(self, event: dict[str, Any]) -> None:
        method, told = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            self.problems.append(" ".join(str(a.get("value") or a.get("description")) for a in told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.problems.append(told["entry"]["text"])

    def size(self, width: int, height: int, dark: bool = False, phone: bool = False) -> None:
        """Set the window's size, and what the page is told of the reader's wishes."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, path: Path) -> None:
        """Open a file, and wait until it is there."""
        self.visit(path.resolve().as_uri())

    def visit(self, address: str) -> None:
        """Open an address of this machine, and wait until it is there."""
        self.problems.clear()
        self.requests.clear()
        self.call("Page.navigate", url=address)
        self.wait("document.readyState == 'complete'")

    def value(self, script: str) -> Any:
        """The value of an expression; promises are waited for."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + SECONDS
        while not self.value(script):
            assert time.monotonic() < deadline, f"never true: {script}"
            time.sleep(0.05)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """A picture of the window, or of the whole page, as PNG."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))


def program() -> str | None:
    """Chromium, where it is installed."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


@contextlib.contextmanager
def browser(width: int = 1200, height: int = 900) -> Iterator[Page]:
    """A page of a new browser, which ends with the block; the test is skipped, and says so, where there is none."""
    found = program()
    if found is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    ours_read, theirs_write = os.pipe()
    theirs_read, ours_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [found, *FLAGS, f"--user-data-dir={folder}"]
        # Chromium reads commands from descriptor 3 and answers on 4
        shell = f'exec "$0" "$@" 3<&{theirs_read} 4>&{theirs_write}'
        process = subprocess.Popen(
            ["bash", "-c", shell, *command], pass_fds=(theirs_read, theirs_write), stderr=subprocess.DEVNULL
        )
        os.close(theirs_read)
        os.close(theirs_write)
        try:
            page = Page(ours_read, ours_write)
            page.size(width, height)
            yield page
        finally:
            process.terminate()
            process.wait(timeout=30)
            os.close(ours_read)
            os.close(ours_write)
