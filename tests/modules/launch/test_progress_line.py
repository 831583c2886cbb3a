"""One line for all runs of a command: from the files that runs leave, on a terminal and elsewhere."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modules.launch.progress_line import ProgressLine, fitted, runs_text
from modules.runs import progress
from modules.runs.progress import Progress, clock
from modules.runs.results import ResultStore
from tests.support.results import run

WAITS = [sys.executable, "-c", "import sys; print('a word'); sys.stdin.read()"]


class Terminal(io.StringIO):
    """A terminal as wide as it is told to be."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def store(tmp_path, monkeypatch) -> ResultStore:
    monkeypatch.setenv(progress.SHOWN_BY, "line")
    return ResultStore(tmp_path)


def drawn(monkeypatch, line: ProgressLine, columns: int) -> str:
    """The line as it stands after another look."""
    monkeypatch.setattr("modules.launch.progress_line._columns", lambda _: columns)
    line._bar.fp = out = Terminal()
    line._bar.sp = line._bar.status_printer(out)
    line.look()
    return out.getvalue().rpartition("\r")[2].rstrip()


@pytest.mark.parametrize("columns", [58, 100])
def test_the_line_has_runs_time_score_and_takes_the_width_that_there_is(store, monkeypatch, columns):
    with ProgressLine(["a", "b", "c+d"], str(store.root), 2, live=True) as line:
        assert "0/4 runs" in drawn(monkeypatch, line, columns) and "starting" in drawn(monkeypatch, line, columns)
        state = Progress("training", 50, 100, 3, 5, "accuracy 87.1")
        state.write(store.runs / "a")
        text = drawn(monkeypatch, line, columns)
        assert "a accuracy 87.1, epoch 3/5" in text and len(text) <= columns
        assert text.endswith(" 17%") == (columns == 100)
        line.began["a"] = (
            time.monotonic() - 60,
            0.0,
        )  # half of it took a minute
        assert "2:3" in drawn(monkeypatch, line, columns)
    assert not list(store.runs.rglob("progress*"))


@pytest.mark.parametrize("room", range(25, 130, 8))
@pytest.mark.parametrize("count", [1, 3])
def test_whatever_the_width_the_epoch_is_whole(room, count):
    state = Progress("scoring", 50, 100, 3, 20, "accuracy 87.1")
    text = fitted("2/9 runs", "1:12:30 left", [("sst2 adapter_h seed 0 and 2 more", state)] * count, room)
    assert len(text) <= room and text.startswith("2/9 runs") and "epoch 3/20" in text
    assert ("accuracy 87.1" in text) == (room >= 53 + 5 * (count > 1)), (
        "the score goes after the time and the title's end"
    )
    assert ("1:12:30 left" in text) == (room > 70) and ("seed 0 and 2 more" in text) == (room > 95)


def test_elsewhere_a_line_for_each_run_that_is_done(store, capsys):
    with ProgressLine(["a", "b", "c"], str(store.root), 1, live=False) as line:
        store.write(run("rte", 0.918, id="a"))
        line.look()
        line.look()
        store.write(run("rte", 0.7, id="b", trainer={"fast_dev_run": True}))
        store.write(run("rte", 0.7, id="c", cost__diverged=True))
        line.look()
    out = capsys.readouterr().out
    assert "\r" not in out and len(out.splitlines()) == 3
    assert out.splitlines()[0] == "a: accuracy 91.8, best epoch 3 of 8 (1 of 3 runs done)"
    assert "b: truncated: no score" in out and "c: diverged" in out


def test_what_workers_print_stands_above_the_line(store, capfd):
    with ProgressLine(["a"], str(store.root), 1, live=True) as line:
        worker = subprocess.Popen(WAITS, stdin=subprocess.PIPE, env={**line.environment()}, **line.pipes())
        line.listen(worker)
        worker.stdin.close()
        assert line.wait([worker]) == [0]
    out, err = capfd.readouterr()
    assert out == "a word\n" and "0/1 run" in err


def test_nobody_watches_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv(progress.SHOWN_BY, raising=False)
    Progress("training").write(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "[]", "{", json.dumps({"what": 1})])
def test_what_is_no_progress_is_none(tmp_path: Path, content):
    (tmp_path / progress.FILE).write_text(content)
    assert progress.read(tmp_path) is None


def test_words():
    assert (clock(7), clock(750), clock(11100)) == ("0:07", "12:30", "3:05:00")
    assert (runs_text(1), runs_text(1234)) == ("1 run", "1,234 runs")
