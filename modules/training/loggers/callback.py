"""The callback that writes the figures of runs to their loggers while they train."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from modules.benchmarks.objective import Samples
from modules.runs.config import RunConfig
from modules.runs.results import RunResult
from modules.runs.trainer_options import truncates
from modules.training.loggers import columns, keys
from modules.training.loggers.heat_map import COLUMNS, LayerHistory
from modules.training.loggers.layer_figures import LayerFigures, by_layer, layer_figures
from modules.training.loggers.run_log import RunLogs

if TYPE_CHECKING:
    from modules.training.history import History
    from modules.training.lightning_module import FineTuner

MAPS_EVERY = 30.0
"""Seconds between two pictures of heat maps; the last one comes at the end."""


class Figures(Callback):
    """Writes a row for every logged step and every epoch of each run that is trained here.

    ``with`` it, runs that do not come to their end are ended as failed.

    Args:
        configs: the runs, in the order of the module's adapters.
        logs: of each run.
        histories: of each run; the callback that fills them comes before this one.
    """

    def __init__(self, configs: Sequence[RunConfig], logs: Sequence[RunLogs], histories: Sequence[History]) -> None:
        self.configs, self.logs, self.histories = list(configs), list(logs), list(histories)
        self.maps: list[dict[str, LayerHistory]] = [{} for _ in logs]
        self._layers: list[tuple[LayerFigures, list[str]]] = []  # of the last step
        self._base: dict[str, Tensor] = {}
        self._written: list[int | None] = [None] * len(self.logs)  # the epoch of the last row
        self._step, self._since, self._drawn = 0, 0.0, 0.0
        self._told: set[str] = set()

    def __enter__(self) -> Figures:
        return self

    def __exit__(self, *_: object) -> None:
        for logs in self.logs:
            logs.each("finish", {}, True)
            logs.logs.clear()

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin to measure; what lies between two epochs is no step's time."""
        self._step, self._since = trainer.global_step, time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, module: FineTuner, *args: Any) -> None:
        """A row every ``log_every_n_steps`` optimizer steps: the only wait for the device within an epoch. After the
        last step of an epoch the figures of layers, as long as its gradients are there."""
        step = trainer.global_step
        if not any(self.logs):
            return
        if trainer.is_last_batch:
            self._layers = [layer_figures(*each, self._base) for each in module.each()]
        if step == self._step or step % trainer.log_every_n_steps:
            return
        losses = module.last_losses.reshape(-1).tolist()
        now = time.perf_counter()
        seconds = (now - self._since) / (step - self._step)
        self._step, self._since = step, now
        tokens = trainer.datamodule.tokens_per_epoch / trainer.datamodule.steps_per_epoch
        tokens *= trainer.accumulate_grad_batches
        for index, (logs, loss, history) in enumerate(zip(self.logs, losses, self.histories, strict=True)):
            if not history.diverged:
                row = keys.step_row(loss, seconds, tokens, learning_rates(trainer, index))
                logs.each("log", row, step)

    def on_validation_end(self, trainer: Trainer, module: FineTuner) -> None:
        """A row for each run that has been scored, with the figures of its layers."""
        if not any(self.logs):
            return
        draw = time.perf_counter() - self._drawn > MAPS_EVERY
        metrics = module.metrics_of_each()
        for index, (adapted, _) in enumerate(module.each()):
            logs, history = self.logs[index], self.histories[index]
            if not history.epochs or history.last["epoch"] == self._written[index]:
                continue
            whole, own = by_layer(metrics[index], adapted)
            norms, missing = self._layers[index] if self._layers else ({}, [])
            self._tell(missing)
            epoch = self._written[index] = history.last["epoch"]
            for figure, values in (norms | own).items():
                self.maps[index].setdefault(figure, LayerHistory(figure)).add(epoch, values)
            cut = truncates(self.configs[index].trainer)
            row = keys.epoch_row(history.last, history.metric, history.best, whole, cut)
            row |= {f"{figure}/{place}": value for figure, found in norms.items() for place, value in found.items()}
            pictures = module.objective.pictures(self.configs[index].folder)
            pictures |= self._pictures(index) if draw else {}
            logs.each("log", row, trainer.global_step, pictures)
            if history.diverged:
                logs.each(
                    "alert",
                    f"{self.configs[index].title} diverged",
                    f"a loss of epoch {epoch} is no number",
                    "diverged",
                )
        if draw:
            self._drawn = time.perf_counter()

    def replay(self, records: Sequence[RunResult]) -> None:
        """A row for each epoch of runs whose training is over, as their records have it."""
        for config, logs, record in zip(self.configs, self.logs, records, strict=True):
            for count, figures in enumerate(record.epochs, start=1):
                best = max(record.epochs[:count], key=lambda epoch: _number(epoch[record.metric]))
                row = keys.epoch_row(figures, record.metric, best, {}, truncates(config.trainer))
                logs.each("log", row, record.cost.get("steps", 0) * count // len(record.epochs))

    def finish(self, index: int, result: RunResult, samples: Samples | None) -> None:
        """End a run: its last heat maps as pictures and tables, outputs, adapters where they are wanted, the summary.

        Args:
            index: of the run.
            samples: a few of its outputs.
        """
        logs, config = self.logs[index], self.configs[index]
        if not logs:
            return
        if pictures := self._pictures(index):
            row = {keys.EPOCH: result.last["epoch"]}
            logs.each("log", row, self.histories[index].steps, pictures)
        tables = [(f"layers/{name}", COLUMNS, found.rows()) for name, found in self.maps[index].items() if found.places]
        for table in (*tables, *([samples] if samples else [])):
            logs.each("table", *table)
        for which in ("last", "best") if config.wandb_artifacts else ():
            facts = columns.adapter(config, result, which)
            logs.each("adapter", config.folder / which, f"{columns.name(config)}-adapter", which, facts)
        logs.each("finish", keys.summary(result), result.diverged)
        logs.logs.clear()

    def _pictures(self, index: int) -> dict[str, Path]:
        """The heat maps of a run, by key, drawn anew; none without matplotlib."""
        found = {}
        for figure, values in self.maps[index].items():
            file = self.configs[index].folder / "maps" / f"{figure}.png"
            if values.places and values.draw(file):
                found[f"layers/{figure}_map"] = file
        return found

    def _tell(self, lines: Sequence[str]) -> None:
        for line in lines:
            if line not in self._told:
                self._told.add(line)
                warnings.warn(f"{line}; dashboards leave it out", stacklevel=2)


def _number(score: float | None) -> float:
    return -math.inf if score is None else score


def learning_rates(trainer: Trainer, index: int = 0) -> dict[str, float]:
    """Rates by the names of the optimizer's groups: adapter, head; of several rates under one name adapter-2, ...

    Args:
        index: of stacked adapters, which: each may have its share of a group's rate.
    """
    found: dict[str, dict[float, float]] = {}
    for group in trainer.optimizers[0].param_groups:
        rates = found.setdefault(str(group.get("name", "adapter")), {})
        share = group["shares"][index] if "shares" in group else 1.0
        rates[share * float(group.get("initial_lr", group["lr"]))] = share * float(group["lr"])
    return {
        name if number == 1 else f"{name}-{number}": rate
        for name, rates in found.items()
        for number, rate in enumerate(rates.values(), start=1)
    }
