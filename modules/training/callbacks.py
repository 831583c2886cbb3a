"""What happens around the steps of a run: its history, its adapters, reproducible epochs."""

from __future__ import annotations

from collections.abc import Callable

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from modules.training.parallel.replicas import check_replicas
from variants.errors import UserError


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
