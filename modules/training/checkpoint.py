"""A run's checkpoint: written at the end of each epoch, and gone on from where it is of this very run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from modules.runs.checkpoints import read_checkpoint, write_checkpoint

PARTS = ("state_dict", "callbacks", "loops", "optimizer_states", "lr_schedulers", "epoch", "global_step")
"""What training goes on from: what Lightning writes into a checkpoint."""


class EpochCheckpoint(Checkpoint):
    """Leaves the checkpoint at the end of each epoch, after all other callbacks. It keeps no path of its own: a moved
    folder goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the state that the next epoch begins with; not that of half an epoch, from which none may go on."""
        if trainer.is_last_batch and not trainer.fast_dev_run:
            trainer.save_checkpoint(self.path)


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's checkpoints as the project writes files: beside their place, on the disk that they stay on."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; raises UserError on a full disk."""
        write_checkpoint(path, checkpoint)


def usable(path: Path, module: LightningModule, title: str) -> Path | None:
    """The checkpoint to go on from; None where there is none that can be: see `read_checkpoint`.

    Args:
        title: the run's, for messages.
    """

    def why_not(content: dict[str, Any]) -> str | None:
        if any(part not in content for part in PARTS):
            return "is none of a run"
        theirs = content["state_dict"]
        shapes = {name: getattr(tensor, "shape", None) for name, tensor in theirs.items()}
        same = shapes == {name: tensor.shape for name, tensor in module.state_dict().items()}
        return None if same else "is of another model"

    return path if read_checkpoint(path, title, why_not, rank_zero_only.rank == 0) else None
