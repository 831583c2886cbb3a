"""A run's checkpoint: written whole at the end of each epoch, and taken up only if it is as it was written."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from variants.atomic import move_aside, write_atomic
from variants.errors import UserError

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
    """Checkpoints as `write_atomic` writes files: beside their place, on the disk that they stay on."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; raises UserError on a full disk."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_atomic(path, buffer.getbuffer())


def usable(path: Path, module: LightningModule, title: str) -> Path | None:
    """The checkpoint to go on from; None where there is none that can be.

    One that is damaged, or of another model, is moved aside by the first of several processes, and said: the run then
    begins anew.

    Args:
        title: the run's, for the message.

    Raises:
        UserError: it can be neither used nor moved.
    """
    if not path.is_file():
        return None
    if (reason := _why_not(path, module)) is None:
        return path
    if rank_zero_only.rank == 0:
        try:
            aside = move_aside(path).name
        except OSError as error:
            raise UserError(
                f"{title}: its checkpoint {path} {reason}, and cannot be moved: {error.strerror}"
            ) from error
        print(f"{title}: its checkpoint {path} {reason}: moved to {aside}, and the run begins anew", file=sys.stderr)
    return None


def _why_not(path: Path, module: LightningModule) -> str | None:
    """Why training cannot go on from a checkpoint, or None.

    A checkpoint is a zip archive, which holds a checksum (CRC-32) of each of its parts; torch does not compare them.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                return f"is damaged (checksum of {damaged})"
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes its readers fail in every way
        return f"is damaged ({type(error).__name__})"
    if not isinstance(found, dict) or any(part not in found for part in PARTS):
        return "is none of a run"
    own, theirs = module.state_dict(), found["state_dict"]
    if not isinstance(theirs, dict) or {n: t.shape for n, t in own.items()} != {
        name: getattr(tensor, "shape", None) for name, tensor in theirs.items()
    }:
        return "is of another model"
    return None
