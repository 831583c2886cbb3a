"""One line for all runs of a command: how many are done, what is being trained, its score, the time left.

On a terminal the line moves, and what workers print stands above it. Elsewhere every event is a line. Either way each
run leaves a line when it is done.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO, Any

from modules.runs import progress
from modules.runs.config import RunConfig
from modules.runs.progress import clock
from modules.runs.ranks import launched, rank
from modules.runs.results import ResultStore, RunResult
from modules.runs.score_form import printed
from variants.errors import UserError

EVERY = 0.2
"""Seconds between two looks at the runs."""
BAR, NARROW = 12, 80
"""Characters that the bar has at least; a terminal narrower than this has none."""
TITLE = 8
"""Characters of a title that say something."""

_now: list[ProgressLine] = []


def say(text: str) -> None:
    """Print a line; above the moving one, where there is one."""
    _now[-1].say(text) if _now else print(text, flush=True)


class ProgressLine:
    """A context in which workers carry out runs.

    Args:
        words: ids of the runs, several of a stack joined by ``+``.
        results_dir: their results folder.
        at_once: workers.
        live: whether the line moves; by default where standard error is a terminal.
    """

    def __init__(self, words: Sequence[str], results_dir: str, at_once: int, live: bool | None = None) -> None:
        self.store, self.at_once = ResultStore(results_dir), at_once
        self.words = {word: word.split("+") for word in dict.fromkeys(words)}
        self.titles = {id: _title(results_dir, id) for ids in self.words.values() for id in ids}
        self.live = sys.stderr.isatty() and not launched() if live is None else live
        self.silent = rank() > 0
        self.done: list[str] = []
        self.began: dict[str, tuple[float, float]] = {}  # when its steps began, and the part that was done by then
        self.took: list[float] = []
        self._start, self._bar, self._readers = time.monotonic(), None, []

    def __enter__(self) -> ProgressLine:
        if self.live:
            from tqdm import tqdm

            self._bar = tqdm(
                total=1.0, bar_format="{desc}", ncols=80, nrows=20, leave=False, position=0, file=sys.stderr
            )
            self.look()
        _now.append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        _now.remove(self)
        for reader in self._readers:
            reader.join(1.0)
        if self._bar is not None:
            self._bar.close()
        for ids in self.words.values():
            for id in ids:
                progress.clear(self.store.runs / id)

    # ---- workers ------------------------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """Variables of a worker whose runs are shown here."""
        return {progress.SHOWN_BY: "line", "PYTHONUNBUFFERED": "1"} if self.live else {progress.SHOWN_BY: "lines"}

    def pipes(self) -> dict[str, Any]:
        """Further arguments of Popen: where the line moves, all that workers print goes through here."""
        return {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} if self.live else {}

    def listen(self, worker: subprocess.Popen) -> None:
        """Print above the line what a worker prints."""
        for pipe, stream in ((worker.stdout, sys.stdout), (worker.stderr, sys.stderr)) if self.live else ():
            reader = threading.Thread(target=self._pass_on, args=(pipe, stream), daemon=True)
            reader.start()
            self._readers.append(reader)

    def _pass_on(self, pipe: IO[bytes], stream: Any) -> None:
        for line in pipe:
            self.say(line.decode(errors="replace").rstrip("\r\n").rpartition("\r")[2], stream)

    def say(self, text: str, stream: Any = None) -> None:
        """Print a line above the moving one."""
        if self._bar is None:
            print(text, file=stream or sys.stdout, flush=True)
        else:
            self._bar.write(text, file=stream or sys.stdout)

    def wait(self, workers: Sequence[subprocess.Popen]) -> list[int]:
        """Show the runs until the workers have ended; their exit codes."""
        while any(worker.poll() is None for worker in workers):
            self.look()
            time.sleep(EVERY)
        for reader in self._readers:  # the last words come before what is said of the runs' end
            reader.join(1.0)
        self._readers.clear()
        self.look()
        return [worker.wait() for worker in workers]

    # ---- runs ---------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Say which runs are done now, and draw the line."""
        now, running = time.monotonic(), []
        for ids in self.words.values():
            for id in ids:
                if id not in self.done and self.store.path(id).is_file() and (result := self.store.read(id)):
                    self._tell(id, result, now)
            if all(id in self.done for id in ids):
                continue
            if state := next((s for id in ids if (s := progress.read(self.store.runs / id))), None):
                if state.step:
                    self.began.setdefault(ids[0], (now, state.share))
                running.append((ids, state))
        if self._bar is not None:
            self._draw(running, now)

    def _tell(self, id: str, result: RunResult, now: float) -> None:
        self.done.append(id)
        if id in self.began:
            self.took.append(now - self.began.pop(id)[0])
        if not self.silent:
            wall = result.cost.get("wall_s")
            seconds = f", {clock(wall)}" if wall else ""
            self.say(
                f"{self.titles[id]}: {outcome(result)}{seconds} ({len(self.done)} of {len(self.titles)} runs done)"
            )

    def _draw(self, running: Sequence[tuple[list[str], progress.Progress]], now: float) -> None:
        done = self._words_done()
        left = self._seconds_left(running, now)
        runs = f"{len(self.done)}/{len(self.titles)} runs"
        time_words = f"{clock(left)} left" if left is not None else f"{clock(now - self._start)} so far"
        self._bar.ncols = columns = _columns(self._bar)  # tqdm itself draws nothing where a terminal says 0 lines
        room = columns - (1 if columns < NARROW else BAR + len(" || 100%"))
        self._bar.bar_format = "{desc}" if columns < NARROW else "{desc} |{bar}| {percentage:3.0f}%"
        self._bar.n = min(1.0, (done + sum(state.share for _, state in running)) / len(self.words))
        if running:
            text = fitted(runs, time_words, [(self._titled(ids), state) for ids, state in running], room)
        else:
            text = f"{runs}, {time_words}" + ("" if self.done else ": starting")
        self._bar.set_description_str(shortened(text, room))

    def _words_done(self) -> int:
        return sum(all(id in self.done for id in ids) for ids in self.words.values())

    def _titled(self, ids: Sequence[str]) -> str:
        title = self.titles[ids[0]]
        return title if len(ids) == 1 else f"{title.rpartition(' ')[0]} and {len(ids) - 1} more"

    def _seconds_left(self, running: Sequence[tuple[list[str], progress.Progress]], now: float) -> float | None:
        """Of all runs, from those that are done and under way; None before there is anything to go by."""
        whole, rest, unknown = list(self.took), 0.0, 0
        for ids, state in running:
            start, before = self.began.get(ids[0], (now, 0.0))
            if (done := state.share - before) > 0.02 and now - start > 2:
                whole.append((now - start) / done)
                rest += whole[-1] * (1 - state.share)
            else:
                unknown += 1
        if not whole:
            return None
        waiting = len(self.words) - len(running) - self._words_done()
        mean = sum(whole) / len(whole)
        return (rest + mean * (waiting + unknown)) / max(1, min(self.at_once, waiting + len(running)))


def outcome(result: RunResult) -> str:
    """Its score, or why it has none."""
    if result.fault:
        return f"{result.fault}{' (a loss is no number)' if result.diverged else ''}: no score"
    score = printed(result.metric, result.best[result.metric])
    return f"{result.metric} {score}, best epoch {result.best['epoch']} of {result.last['epoch']}"


def fitted(runs: str, time_words: str, running: Sequence[tuple[str, progress.Progress]], room: int) -> str:
    """The line in so many characters, as far as that can be. What goes first: all runs but one, the end of that one's
    title, the time, the score. How many are done, and the epoch, stay.

    Args:
        runs: how many are done; time_words: what is left.
        running: title and state of what is under way.
    """
    head = f"{runs}, {time_words}: "
    for shown in range(len(running), 0, -1):
        more = f" (+{len(running) - shown})" if shown < len(running) else ""
        text = head + "; ".join(f"{title} {words_of(state)}".rstrip() for title, state in running[:shown]) + more
        if len(text) <= room:
            return text
    title, state = running[0]
    for start, words in ((head, words_of(state)), (f"{runs}: ", words_of(state)), (f"{runs}: ", epoch_of(state))):
        if (space := room - len(f"{start} {words}{more}")) >= min(TITLE, len(title)):
            return f"{start}{shortened(title, space)} {words}{more}"
    return f"{runs}: {epoch_of(state) or title}{more}"


def shortened(text: str, room: int) -> str:
    """The text, its end cut where it is longer than the room."""
    return text if len(text) <= room else f"{text[: max(0, room - 1)]}…"


def words_of(state: progress.Progress) -> str:
    """Such as ``accuracy 87.1, epoch 2/5``."""
    return ", ".join(filter(None, [state.score, epoch_of(state), state.doing if state.doing != "training" else ""]))


def epoch_of(state: progress.Progress) -> str:
    """Such as ``epoch 2/5``; "" before the first."""
    return f"epoch {state.epoch}/{state.epochs}" if state.epoch else ""


def runs_text(count: int) -> str:
    """Such as ``1 run``."""
    return f"{count:,} run" + "s" * (count != 1)


def _columns(bar: Any) -> int:
    try:
        return os.get_terminal_size(bar.fp.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return 80


def _title(results_dir: str, id: str) -> str:
    try:
        return RunConfig.read(results_dir, id).title
    except UserError:
        return id
