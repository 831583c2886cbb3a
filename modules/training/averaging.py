"""A moving average of what a run trains: what is scored and saved where one is asked for."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer
from torch import nn

from modules.training.lightning_module import FineTuner
from variants.errors import UserError
from variants.variant import BaseVariant


class MovingAverage(Callback):
    """Keeps the exponential moving average of all trained parameters with diffusers' `EMAModel`, whose decay rises
    from 0 as (1 + step) / (10 + step).

    Evaluations, the adapters that they leave and the last adapter have the average; steps and checkpoints go on from
    the parameters themselves, and a checkpoint holds the average too. It stands before the history among callbacks.

    Args:
        decay: largest decay, such as 0.999.
        variant: what trains.

    Raises:
        UserError: the variant changes its values between steps, which an average would undo.
    """

    def __init__(self, decay: float, variant: BaseVariant) -> None:
        if type(variant).after_step is not BaseVariant.after_step:
            raise UserError(
                f"--ema: {variant.name} changes what it trains between steps, and an average would undo that: leave "
                "--ema out"
            )
        self.decay = decay
        self._average: Any = None
        self._steps = 0
        self._swapped = False

    def setup(self, trainer: Trainer, module: FineTuner, stage: str) -> None:
        """Begin with the values that training begins with; before a checkpoint is read."""
        from diffusers.training_utils import EMAModel

        if stage == "fit" and self._parameters(module):
            self._average = EMAModel(self._parameters(module), self.decay, foreach=True)

    def _parameters(self, module: FineTuner) -> list[nn.Parameter]:
        return list(module.adapted.trained().values())

    def on_fit_start(self, trainer: Trainer, module: FineTuner) -> None:
        """Move to the device."""
        if self._average:
            self._average.to(module.device)

    def on_train_batch_start(self, trainer: Trainer, module: FineTuner, *args: Any) -> None:
        """Go on from the parameters themselves."""
        self._give_back(module)

    def on_train_batch_end(self, trainer: Trainer, module: FineTuner, *args: Any) -> None:
        """Take in the values after an optimizer step."""
        if self._average and trainer.global_step > self._steps:
            self._steps = trainer.global_step
            self._average.step(self._parameters(module))

    def on_validation_start(self, trainer: Trainer, module: FineTuner) -> None:
        """Score the average, and leave it for the adapter files that follow."""
        self._swap(module)

    def on_train_epoch_end(self, trainer: Trainer, module: FineTuner) -> None:
        """Give the parameters back, before the checkpoint is written."""
        self._give_back(module)

    def on_fit_end(self, trainer: Trainer, module: FineTuner) -> None:
        """Leave the average, before the last adapter is written."""
        self._swap(module)

    def _swap(self, module: FineTuner) -> None:
        if self._average and not self._swapped:
            self._average.store(self._parameters(module))
            self._average.copy_to(self._parameters(module))
            self._swapped = True

    def _give_back(self, module: FineTuner) -> None:
        if self._swapped:
            self._average.restore(self._parameters(module))
            self._swapped = False

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"average": self._average.state_dict(), "steps": self._steps} if self._average else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        if self._average and state_dict:
            self._average.load_state_dict(state_dict["average"])
            self._steps = state_dict["steps"]
