"""The history of a run: the figures of its epochs, its best adapter, what it cost."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from modules.runs.results import finite_losses
from modules.training.lightning_module import FineTuner
from variants.adapters.adapted_model import AdaptedModel
from variants.formats.native import save_adapter


class History(Callback):
    """Figures of every epoch, the best epoch's adapter, and what the run cost. Its state is part of the checkpoint.

    Args:
        metric: the one that picks the best epoch; higher is better, the first of equals stays.
        folder: where the adapters of the best and of the last epoch are kept.
        notes: readable facts for the adapter files.

    Attributes:
        epochs: the figures of each epoch: ``epoch``, ``train_loss``, ``loss`` and the objective's.
        step_seconds: mean time of a training step in each epoch.
        steps: training steps, each of one batch.
        seconds: wall-clock time of all epochs, evaluations included.
        diverged: whether a loss of the last epoch is not finite.
    """

    def __init__(self, metric: str, folder: Path, notes: dict[str, Any]) -> None:
        self.metric, self.folder, self.notes = metric, folder, notes
        self.epochs: list[dict[str, Any]] = []
        self.step_seconds: list[float] = []
        self.steps = 0
        self.seconds = 0.0
        self.diverged = False
        self._since = self._epoch_start = 0.0
        self._epoch_steps = 0

    @property
    def best(self) -> dict[str, Any]:
        """The figures of the epoch with the highest metric."""
        return max(self.epochs, key=self._worth)

    def _worth(self, figures: dict[str, Any]) -> float:
        """The metric; an epoch whose losses are no numbers is worth less than any other, whatever its metric says."""
        value = figures[self.metric]
        return value if finite_losses(figures) and not math.isnan(value) else -math.inf

    @property
    def last(self) -> dict[str, Any]:
        """The figures of the epoch that came last."""
        return self.epochs[-1]

    def finished(self) -> list[History]:
        """The history of each run that has been trained."""
        return [self]

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock of the run; one that had diverged when it was killed stays as it is."""
        self._since = time.perf_counter()
        trainer.should_stop |= self.diverged

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock of the epoch."""
        self._epoch_start, self._epoch_steps = time.perf_counter(), 0

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *args: Any) -> None:
        """Count the step."""
        self._epoch_steps += 1
        if trainer.is_last_batch:
            self._end_of_steps()

    def _end_of_steps(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.step_seconds.append((time.perf_counter() - self._epoch_start) / self._epoch_steps)
        self.steps += self._epoch_steps

    def on_validation_end(self, trainer: Trainer, module: FineTuner) -> None:
        """Take the epoch's figures, keep the best adapter, and stop where the loss has diverged."""
        epoch = scored_epoch(trainer)
        figures = {"epoch": epoch, **module.epoch_figures()}
        self.take(figures)
        if self.diverged:
            trainer.should_stop = True
        if trainer.is_global_zero and self.best is figures:
            self.save(module.adapted, "best")

    def take(self, figures: dict[str, Any]) -> None:
        """Add the figures of an epoch."""
        self.epochs.append(figures)
        self.diverged = not finite_losses(figures)

    def save(self, adapted: AdaptedModel, which: str) -> None:
        """Write the active adapter as it is now, as that of the epoch that came last."""
        save_adapter(adapted, self.folder / which, epoch=self.last["epoch"], **self.notes)

    def on_train_epoch_end(self, trainer: Trainer, module: FineTuner) -> None:
        """Add the epoch to the run's time."""
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now

    def on_fit_end(self, trainer: Trainer, module: FineTuner) -> None:
        """Keep the last adapter."""
        if trainer.is_global_zero and self.epochs:
            self.save(module.adapted, "last")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the history."""
        return {k: getattr(self, k) for k in ("epochs", "step_seconds", "steps", "seconds", "diverged")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        for key, value in state_dict.items():
            setattr(self, key, value)


def scored_epoch(trainer: Trainer) -> int:
    """The number of the epoch that has just been scored, from 1; 0 for a frozen model, scored as it is."""
    return trainer.current_epoch + 1 if trainer.state.fn == TrainerFn.FITTING else 0
