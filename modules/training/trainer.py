"""Lightning's Trainer of a run."""

from __future__ import annotations

import contextlib
import inspect
import logging
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.plugins.environments import LightningEnvironment

from modules.data.module import PaddedDataModule
from modules.runs.config import RunConfig
from modules.runs.ranks import launched
from modules.runs.results import run_id
from modules.training.callbacks import EpochSeeds, SameReplicas
from modules.training.checkpoint import CheckpointFiles, EpochCheckpoint
from modules.training.cost import reset_peak_memory
from modules.training.history import History
from modules.training.lightning_module import FineTuner
from modules.training.parallel import devices
from modules.training.parallel.strategies import strategy, without_questions
from variants.errors import UserError, first_line

CHECKPOINT = "last.ckpt"
"""File name of a run's checkpoint, in its folder."""


def checkpoint_path(configs: Sequence[RunConfig]) -> Path:
    """Where the checkpoint of a run is, or of these very runs trained at once."""
    name = CHECKPOINT
    if len(configs) > 1:
        name = f"stacked-{run_id({'runs': [config.id for config in configs]})}.ckpt"
    return configs[0].folder / name


def begin(seed: int) -> None:
    """What comes before all else in the process of a run."""
    quieten()
    seed_everything(seed, verbose=False)
    torch.backends.cuda.enable_cudnn_sdp(False)  # it compiles a kernel for every shape that it meets
    reset_peak_memory()


def fit(trainer: Trainer, module: FineTuner, data: PaddedDataModule, checkpoint: Path | None, history: History) -> None:
    """Train, from a checkpoint on if there is one.

    Raises:
        UserError: training ended before its last epoch though it has not diverged: half a run must not pass for a
            whole one.
    """
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    whole = trainer.is_last_batch and trainer.fit_loop.epoch_progress.current.processed >= trainer.max_epochs
    if not whole and not history.diverged:
        raise UserError(
            f"training ended before the end of its {trainer.max_epochs} epochs and is not recorded: leave out what "
            "stops it, such as --trainer.max_steps; the same command goes on from the last whole epoch"
        )


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """What a person interrupts inside ends by KeyboardInterrupt, and can be interrupted again.

    Lightning ends the process instead, and lets it ignore any further SIGINT: a notebook would be lost.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT) if main else None
    try:
        yield
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        if main:
            signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt from None


def make_trainer(
    config: RunConfig,
    own: Sequence[Callback],
    precision: str,
    checkpoint: Path,
    averages: bool = False,
) -> Trainer:
    """Lightning's Trainer of a run, which leaves its ``checkpoint`` at the end of each epoch.

    Args:
        own: the run's callbacks, in their order: history, progress, figures.
        averages: whether the run's own step averages gradients over processes.

    Raises:
        UserError: Lightning refuses one of ``config.trainer``'s options.
    """
    callbacks = [EpochSeeds(config.seed), SameReplicas(config.id), *own, EpochCheckpoint(checkpoint)]
    options = {
        "devices": 1,
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
        "log_every_n_steps": 10,
    } | config.trainer
    options["precision"] = precision
    options["plugins"] = [CheckpointFiles()]
    if not launched():
        options["plugins"].append(LightningEnvironment())  # a SLURM job alone has started no ranks
    if devices.in_shards(config):  # weights that were gathered first in inference mode could not be trained through
        options["inference_mode"] = False
    if not devices.in_one_process(config):
        options["strategy"] = strategy(options.get("strategy", "auto"), averages, config.id)
    try:
        trainer = Trainer(
            max_epochs=config.training["epochs"],
            gradient_clip_val=config.training.get("gradient_clip_val") or None,
            callbacks=callbacks,
            logger=False,  # loggers are the callback's: stacked seeds are several runs
            use_distributed_sampler=False,
            enable_progress_bar=False,
            default_root_dir=config.folder,
            **options,
        )
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"lightning.Trainer refuses the options: {first_line(error)}") from error
    without_questions(trainer)
    return trainer


def quieten() -> None:
    """Silence what tells a person nothing: the libraries' advice about workers, devices and loggers."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint need to be provided.*")  # older ones
    for pattern in (".*does not have many workers.*", ".*GPU available but not used.*", ".*exists and is not empty.*"):
        warnings.filterwarnings("ignore", pattern)
    warnings.filterwarnings("ignore", ".*number of training batches.*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*`broadcast_buffers` is deprecated.*|.*all_gather is deprecated.*")
    warnings.filterwarnings("ignore", ".*returned a view tensor.*")  # of blocks in shards: nothing writes into it
    warnings.filterwarnings("ignore", ".*`srun` command is available.*")
    warnings.filterwarnings("ignore", ".*treespec.*|.*LeafSpec.*|.*isinstance.treespec.*")
    assert "weights_only" in inspect.signature(Trainer.fit).parameters, "needs lightning >= 2.6"
