"""The progress of a run, as a person sees it."""

from __future__ import annotations

import os
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from modules.processes import on_terminal
from modules.runs.results import finite_losses
from modules.training.history import History


class Progress(Callback):
    """One moving line: task, variant, epoch, metric, step time, time left. Where nobody watches, a line per epoch.

    Args:
        title: at the start of the line.
        history: of the run; it must come before this callback.
        live: whether the line moves; by default where standard error is a terminal and no other run is being trained
            beside this one.
    """

    def __init__(self, title: str, history: History, live: bool | None = None) -> None:
        self.title, self.history = title, history
        # the lines of several runs would overwrite each other
        alone = os.environ.get("LORA_VARIANTS_RUNS_AT_ONCE", "1") == "1"
        self.live = alone and on_terminal() if live is None else live
        self.bar: Any = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin the moving line."""
        if trainer.is_global_zero and self.live:
            from tqdm import tqdm

            total = int(trainer.estimated_stepping_batches)
            layout = (
                "{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} steps, {remaining} left, {rate_fmt}{postfix}"
            )
            self.bar = tqdm(total=total, initial=trainer.global_step, desc=self.title, unit="step", bar_format=layout)
            self.bar.set_postfix_str(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", refresh=False)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        """Move the line by a step."""
        if self.bar is not None:
            self.bar.update(trainer.global_step - self.bar.n)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Show the epoch's metric."""
        if not trainer.is_global_zero:
            return
        figures, metric = self.history.last, self.history.metric
        scored = f"{metric} {100 * figures[metric]:.1f}" if finite_losses(figures) else "diverged (a loss is no number)"
        ms = 1000 * self.history.step_seconds[-1] if self.history.steps else 0.0
        if self.bar is not None:
            following = min(figures["epoch"] + 1, trainer.max_epochs)
            self.bar.set_postfix_str(f"epoch {following}/{trainer.max_epochs}, {scored}")
        else:
            print(
                f"{self.title}: epoch {figures['epoch']}/{trainer.max_epochs}, {scored}, {ms:.1f} ms/step", flush=True
            )

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        """End the line."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
