"""What happens around the steps of a run: reproducible epochs, replicas that stay equal, a moving average."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import nn

from modules.training.parallel.replicas import check_replicas
from variants.errors import UserError
from variants.variant import BaseVariant


class EpochSeeds(Callback):
    """Seeds the global generators anew at each epoch: a resumed run draws what an unbroken one draws."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Seed by run, epoch and rank."""
        seed = self.seed * 100_003 + trainer.current_epoch * 17 + trainer.global_rank
        seed_everything(seed % 2**32, verbose=False)  # the most that it takes


class BeforeWriting(Callback):
    """Asks before each evaluation whether the files that follow it may be written; what it raises ends the run."""

    def __init__(self, ask: Callable[[], object]) -> None:
        self._ask = ask

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Ask."""
        self._ask()


class DevLosses(Callback):
    """Keeps the dev loss of each adapter, for a run whose training is over: nothing else is made of the evaluation."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep them."""
        self.losses = module.dev_losses()


class SameReplicas(Callback):
    """Ends a run whose processes were given different runs, or have drifted apart: before an adapter is saved that is
    the first one's alone.

    Args:
        run: the id of this process's run.
    """

    def __init__(self, run: str) -> None:
        self.run = run

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Compare what every process is at. Raises UserError."""
        if (first := trainer.strategy.broadcast(self.run)) != self.run:
            raise UserError(
                f"rank {trainer.global_rank} is to train run {self.run} and rank 0 run {first}: they have seen the "
                "results folder at different times; start the command again"
            )

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Compare what every process has learnt. Raises UserError."""
        check_replicas(module.state_dict())


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

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        """Begin with the values that training begins with; before a checkpoint is read."""
        from diffusers.training_utils import EMAModel

        if stage == "fit" and self._parameters(module):
            self._average = EMAModel(self._parameters(module), self.decay, foreach=True)

    def _parameters(self, module: LightningModule) -> list[nn.Parameter]:
        return list(module.adapted.trained().values())

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Move to the device."""
        if self._average:
            self._average.to(module.device)

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        """Go on from the parameters themselves."""
        self._give_back(module)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        """Take in the values after an optimizer step."""
        if self._average and trainer.global_step > self._steps:
            self._steps = trainer.global_step
            self._average.step(self._parameters(module))

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Score the average, and leave it for the adapter files that follow."""
        self._swap(module)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Give the parameters back, before the checkpoint is written."""
        self._give_back(module)

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Leave the average, before the last adapter is written."""
        self._swap(module)

    def _swap(self, module: LightningModule) -> None:
        if self._average and not self._swapped:
            self._average.store(self._parameters(module))
            self._average.copy_to(self._parameters(module))
            self._swapped = True

    def _give_back(self, module: LightningModule) -> None:
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
