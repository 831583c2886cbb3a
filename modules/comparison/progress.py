"""A line whenever a trial is done, with the best so far: from result files, so other commands' and machines' too."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from modules.comparison.comparison import Comparison
from modules.comparison.space import words
from modules.comparison.trials import Trial, Trials, score_text, scored
from modules.launch.progress_line import say
from modules.runs.results import ResultStore

LOOK = 1.0
"""Seconds between two looks at the results folder."""


class Progress:
    """What has been said of a search.

    Attributes:
        total: how many trials all rows are to have.
        done: how many have a score, or cannot have one; best: of each row.
    """

    def __init__(self, comparison: Comparison, total: int) -> None:
        self.comparison, self.total, self.done = comparison, total, 0
        self.best: dict[str, Trial] = {}

    def add(self, row: str, trial: Trial, silent: bool = False) -> None:
        """Count a trial that is done, and say so."""
        metric = self.comparison.content.tune.metric
        self.done += 1
        before = self.best.get(row)
        if trial.score is not None and (before is None or trial.score > before.score):
            self.best[row] = trial
        if silent:
            return
        said = f"trial {self.done} of {self.total}: {row} {words(trial.point)}: {score_text(trial, metric)}"
        if before and self.best[row] is before:
            said += f"; best so far {score_text(before, metric)} ({words(before.point)})"
        elif trial.score is not None:
            said += ", the best so far"
        say(said)


@contextmanager
def told(comparison: Comparison, trials: Trials, total: int | None = None) -> Iterator[None]:
    """``with told(comparison, trials):`` a line for each trial whose runs are all done meanwhile.

    Args:
        total: how many trials there are to be in the end, where more follow.
    """
    progress = Progress(comparison, total or sum(map(len, trials.values())))
    waiting = []
    for name, each in ((name, each) for name, own in trials.items() for each in own):
        if not each.done:
            waiting.append((name, each))
        else:
            progress.add(name, each, silent=True)
    store, stop = ResultStore(comparison.tuning), threading.Event()

    def look() -> None:
        for name, each in list(waiting):
            if all(store.path(run.id).is_file() for run in each.runs):
                waiting.remove((name, each))
                if (now := scored(comparison, each)).done:
                    progress.add(name, now)

    def watch() -> None:
        while not stop.wait(LOOK):
            look()

    watcher = threading.Thread(target=watch, name="trials", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
        look()
