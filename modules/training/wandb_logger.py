"""Weights & Biases: on by default, offline unless one is logged in, and never a reason for a run to fail."""

from __future__ import annotations

import netrc
import os
import re
import warnings
from pathlib import Path
from typing import Any

from modules.documents import read_text
from modules.runs.config import RunConfig
from modules.training.callbacks import History, dashboard
from modules.training.trainer import CHECKPOINT
from variants.atomic import write_atomic
from variants.errors import UserError


def _id_in(file: Path) -> str | None:
    """The id that an earlier try left; None where the file is damaged: the run then is a new one in W&B."""
    try:
        text = read_text(file)
    except UserError:
        return None
    return text if re.fullmatch(r"[\w-]{1,128}", text) else None


def make_logger(config: RunConfig) -> Any | None:
    """Lightning's W&B logger for a run, or None where it is off or cannot be had.

    Runs are grouped by benchmark, variant and task. ``config.wandb`` is auto, online, offline or off; auto is online
    for somebody who is logged in and offline otherwise. A run that goes on from its checkpoint goes on in W&B too.
    """
    known = config.folder / "wandb_id"
    resume_id = _id_in(known) if known.is_file() and (config.folder / CHECKPOINT).is_file() else None
    mode = config.wandb
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline")
    if mode in ("off", "disabled"):
        return None
    try:
        from lightning.pytorch.loggers import WandbLogger

        os.environ.setdefault("WANDB_SILENT", "true")
        logger = _forgiving(WandbLogger)(
            project=os.environ.get("WANDB_PROJECT", "lora-variants"),
            name=f"{config.task}-{config.variant.rpartition(':')[2]}-s{config.seed}-{config.id[:6]}",
            group=f"{config.benchmark}/{config.variant.rpartition(':')[2]}/{config.task}",
            tags=[config.protocol, config.backbone["name"]],
            id=resume_id,
            resume="allow" if resume_id else None,
            offline=mode == "offline",
            log_model=False,
            save_dir=os.environ.get("WANDB_DIR", "."),
            config={"run": config.id, **_flat(config)},
        )
        logger._wandb_init.pop("anonymous", None)  # Lightning passes it always, W&B then warns that it has no effect
        experiment = logger.experiment  # starts it here, where a failure is still harmless
        if isinstance(getattr(experiment, "id", None), str):  # in the first process only
            write_atomic(known, experiment.id)
        return logger
    except Exception as error:  # whatever is wrong with it: the run matters, the dashboard does not
        warnings.warn(f"Weights & Biases is off for this run: {error}", stacklevel=2)
        return None


def log_epochs(config: RunConfig, history: History) -> Any | None:
    """A logger with every epoch of a run that has been trained together with others; None where W&B is off."""
    logger = make_logger(config)
    for figures in history.epochs if logger else ():
        step = history.steps * figures["epoch"] // len(history.epochs)
        logger.log_metrics(dashboard(figures, {}), step=step)
    return logger


def finish_logging(
    logger: Any | None, history: History, test: dict[str, Any] | None, parameters: dict[str, int]
) -> str | None:
    """Write the dashboard's summary (the best epoch, the test figures, counted parameters) and end it; its run id."""
    if not logger:
        return None
    try:
        experiment = logger.experiment
        summary = {f"best/{name}": value for name, value in history.best.items()}
        summary |= {f"test/{name}": value for name, value in (test or {}).items() if isinstance(value, (int, float))}
        summary |= {"diverged": history.diverged}
        experiment.summary.update(summary | {f"parameters/{name}": value for name, value in parameters.items()})
        identity = experiment.id
        experiment.finish()
        return identity
    except Exception as error:
        warnings.warn(f"Weights & Biases could not be finished: {error}", stacklevel=2)
        return None


def _forgiving(base: type) -> type:
    class ForgivingLogger(base):  # type: ignore[misc, valid-type]
        """A logger whose failures are reported once and then ignored."""

        failed = False

        def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
            if self.failed:
                return
            try:
                super().log_metrics(metrics, step)
            except Exception as error:
                type(self).failed = True
                warnings.warn(f"Weights & Biases stopped working, the run goes on: {error}", stacklevel=2)

    return ForgivingLogger


def _logged_in() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _flat(config: RunConfig) -> dict[str, Any]:
    """The configuration as W&B's table shows it best: variant options and training settings side by side."""
    keys = ("benchmark", "task", "variant", "protocol", "seed", "init_from")
    facts = {key: getattr(config, key) for key in keys}
    facts |= {f"backbone.{k}": v for k, v in config.backbone.items()} | {f"data.{k}": v for k, v in config.data.items()}
    return facts | config.options | config.training
