"""The loggers of a run that is about to be trained."""

from __future__ import annotations

import warnings
from typing import Any

from modules.runs.config import RunConfig
from modules.runs.ranks import rank
from modules.training.loggers import columns
from modules.training.loggers.others import CsvRun, TensorBoardRun, TrackioRun
from modules.training.loggers.run_log import RunLog, RunLogs
from modules.training.loggers.wandb_run import Card, Place, WandbRun, start

OTHERS = {"trackio": TrackioRun, "tensorboard": TensorBoardRun, "csv": CsvRun}
"""Values of --logger beside wandb -> what a run is there."""


def open_logs(
    config: RunConfig, parameters: dict[str, int], metrics: tuple[str, ...], goes_on: bool, **known: Any
) -> RunLogs:
    """A run in each of its loggers, in the first of its processes; elsewhere in none.

    A logger that cannot begin is named and left out.

    Args:
        parameters: counted: adapter, head and total.
        metrics: of the task, higher being better.
        goes_on: whether the run goes on from its checkpoint: then it does so in W&B too.
        known: ``device`` and ``stacked``, as `columns.columns` takes them.
    """
    logs: list[RunLog] = []
    if rank() == 0:
        facts = columns.columns(config, parameters, **known)
        for name in config.loggers:
            try:
                if name != "wandb":
                    logs.append(OTHERS[name](config, facts))
                elif (run := _in_wandb(config, facts, metrics, goes_on)) is not None:
                    logs.append(run)
            except Exception as error:  # whatever is wrong with it: the run matters, the dashboard does not
                title = "Weights & Biases" if name == "wandb" else OTHERS[name].title
                warnings.warn(f"{title} is off for this run: {error}", stacklevel=2)
    return RunLogs(logs)


def _in_wandb(config: RunConfig, facts: dict[str, Any], metrics: tuple[str, ...], goes_on: bool) -> WandbRun | None:
    before = Place.read(config.folder) if goes_on else None
    card = Card(
        name=columns.name(config),
        group=columns.group(config),
        tags=columns.tags(config),
        config=facts,
        resume_id=before.id if before else None,
        metrics=metrics,
    )
    run = start(config, card)
    if run is not None and isinstance(run.id, str):
        run.place.write(config.folder)
    return run
