"""The progress of a run, as a person sees it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from modules.processes import on_terminal
from modules.runs import progress as shown
from modules.runs.progress import clock
from modules.runs.results import finite_losses
from modules.runs.score_form import printed
from modules.training.history import History

EVERY = 0.5
"""Seconds between two notes for the command that shows the run."""
QUIET, LONGEST, PARTS = 30.0, 300.0, 10
"""Where lines are printed: so many seconds after the last one comes a further one with each so many-th part of an epoch
that is done, and at the latest after `LONGEST`."""


class Progress(Callback):
    """One moving line: task, variant, epoch, metric, time left. Where nobody watches, a line per epoch, and where
    epochs are long more of them (`QUIET`).

    A run that a command has started tells the command how far it is, which draws one line for all of its runs.

    Args:
        title: at the start of the line.
        history: of the run; it must come before this callback.
        folder: of the run, where the command looks.
        live: whether the line moves; by default in a notebook, and on a terminal, unless a command draws a line.
    """

    def __init__(self, title: str, history: History, folder: Path, live: bool | None = None) -> None:
        self.title, self.history, self.folder = title, history, folder
        self.shown_by = os.environ.get(shown.SHOWN_BY)
        self.live = not self.shown_by and (in_notebook() or on_terminal()) if live is None else live
        self.bar: Any = None
        self._score, self._told, self._steps = "", 0.0, 0
        self._begin, self._said, self._part = (0.0, 0), 0.0, 0  # (when, step) of the start; the last line

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin the moving line; say where a run that was stopped goes on."""
        if not trainer.is_global_zero:
            return
        self._steps = int(trainer.estimated_stepping_batches)
        self._begin, self._said = (time.monotonic(), trainer.global_step), time.monotonic()
        if trainer.current_epoch:
            print(f"{self.title}: goes on at epoch {trainer.current_epoch + 1} of {trainer.max_epochs}", flush=True)
        if self.live:
            if in_notebook():
                from tqdm.auto import tqdm
            else:
                from tqdm import tqdm

            layout = "{desc}, {remaining} left |{bar}| {n_fmt}/{total_fmt} steps"
            self.bar = tqdm(total=self._steps, initial=trainer.global_step, bar_format=layout, dynamic_ncols=True)
        self._show(trainer, "training")

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        """Move the line by a step."""
        if self.bar is not None:
            self.bar.update(trainer.global_step - self.bar.n)
        if trainer.is_global_zero and self.shown_by and time.monotonic() - self._told > EVERY:
            self._show(trainer, "training")
        self._sign(trainer)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Say that the epoch is being scored."""
        if trainer.is_global_zero:
            self._show(trainer, "scoring")

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Show the epoch's metric."""
        if not trainer.is_global_zero:
            return
        figures, metric = self.history.last, self.history.metric
        self._score = f"{metric} {printed(metric, figures[metric])}"
        if not finite_losses(figures):
            self._score = "diverged (a loss is no number)"
        ms = 1000 * self.history.step_seconds[-1] if self.history.steps else 0.0
        if self.bar is None and self.shown_by != "line":
            words = f"epoch {figures['epoch']}/{trainer.max_epochs}, {self._score}, {ms:.1f} ms/step"
            self._say(words)
        self._show(trainer, "training", figures["epoch"] + 1)

    def _sign(self, trainer: Trainer) -> None:
        """A line within a long epoch."""
        if self.bar is not None or self.shown_by == "line" or not trainer.is_global_zero:
            return
        silent, step = time.monotonic() - self._said, trainer.global_step
        part = PARTS * step * trainer.max_epochs // max(1, self._steps)
        if silent < QUIET or (part == self._part and silent < LONGEST):
            return
        self._part = part
        began, first = self._begin
        rest = (time.monotonic() - began) / max(1, step - first) * (self._steps - step)
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._say(f"{epoch}, step {step:,} of {self._steps:,}, about {clock(rest)} left")

    def _say(self, words: str) -> None:
        self._said = time.monotonic()
        print(f"{self.title}: {words}", flush=True)

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        """End the line."""
        if trainer.is_global_zero:
            self._show(trainer, "finishing")
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _show(self, trainer: Trainer, doing: str, epoch: int | None = None) -> None:
        """Redraw the line, or tell the command."""
        self._told = time.monotonic()
        epoch = min(epoch or trainer.current_epoch + 1, trainer.max_epochs)
        if self.bar is not None:
            score = f"{self._score}, " if self._score else ""
            self.bar.set_description_str(f"{self.title}: {score}epoch {epoch}/{trainer.max_epochs}")
        if self.shown_by:
            of = (trainer.global_step, self._steps, epoch, trainer.max_epochs)
            shown.Progress(doing, *of, self._score).write(self.folder)


@rank_zero_only
def say(title: str, folder: Path, doing: str) -> None:
    """Say what a run does that has no steps, once for all its processes: to the command that shows it, or in a line.

    Args:
        title, folder: as of `Progress`.
    """
    shown.Progress(doing).write(folder)
    if os.environ.get(shown.SHOWN_BY) != "line":
        print(f"{title}: {doing}", flush=True)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook; what only starts one, as nbclient does, has imported it too."""
    ipython = sys.modules.get("IPython")
    return hasattr(ipython.get_ipython() if ipython else None, "kernel")
