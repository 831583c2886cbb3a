"""A sign of life on a terminal, which leaves nothing; elsewhere no word."""

from __future__ import annotations

import io
import time

from modules.command_line import waiting as signs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_seconds_and_then_nothing(monkeypatch):
    monkeypatch.setattr("sys.stderr", out := Terminal())
    monkeypatch.setattr(signs, "QUIET", 0.01)
    monkeypatch.setattr(signs, "EVERY", 0.02)
    with signs.waiting("reading"):
        time.sleep(0.2)
    text = out.getvalue()
    assert text.count("reading (0 s)") > 2 and text.endswith("\r\x1b[K") and "\n" not in text


def test_elsewhere_nothing_is_said(capsys):
    with signs.waiting("reading"):
        pass
    assert capsys.readouterr() == ("", "")
