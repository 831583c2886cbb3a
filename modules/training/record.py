"""The record of a finished run: made of what it has learnt, or of the record of a run that was trained as it is
(`RunConfig.trained_as`) and what it scores itself."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from modules.benchmarks.base import Prepared, benchmark
from modules.runs.config import NEUTRAL, RunConfig
from modules.runs.environment import environment
from modules.runs.results import ADAPTERS, ResultStore, RunResult
from modules.training.cost import cost
from modules.training.history import History
from variants.errors import VariantError
from variants.formats.native import copy_adapter, read_adapter
from variants.outside.options import build
from variants.registry import resolve


def notes(config: RunConfig, prepared: Prepared) -> dict[str, Any]:
    """What an adapter file says beside its variant: its run, its base, the names of its labels, how texts are read.

    With it `modules.load_run` needs nothing but the adapter's folder.
    """
    model, own = prepared.model.config, benchmark(config.benchmark)
    backbone = {name: config.backbone.get(name) for name in ("source", "name", "spec", "hash")}
    if backbone["source"] == "folder":
        backbone["spec"] = os.path.abspath(os.path.expanduser(str(backbone["spec"])))
    head: dict[str, Any] = {}
    if getattr(model, "problem_type", None):
        labels = [] if model.problem_type == "regression" else [model.id2label[k] for k in range(model.num_labels)]
        head = {"problem_type": model.problem_type, "num_labels": model.num_labels, "labels": labels}
    return {
        "spec": config.variant,
        "run": config.id,
        "benchmark": own.name,
        "task": config.task,
        "backbone": backbone,
        **head,
        "inputs": own.inputs(config),
    }


def make_result(
    config: RunConfig,
    prepared: Prepared,
    history: History,
    trainer: Trainer,
    *,
    test: dict[str, Any] | None,
    parameters: dict[str, int],
    variant_metrics: dict[str, float],
    wandb_id: str | None,
    stacked: int = 1,
    reference: bool = False,
) -> RunResult:
    """All that a run's file holds.

    Args:
        history: of this run alone.
        test: the figures that the table prints, where they are not the dev set's.
        parameters: counted: adapter, head and total.
        variant_metrics: the variant's figures about its state after the last epoch.
        wandb_id: of the run in W&B.
        stacked: how many seeds were trained at once; times and memory are those of all of them.
        reference: whether it was computed without acceleration.
    """
    variant = build(resolve(config.variant), config.options)
    machine = environment(str(trainer.strategy.root_device), trainer.world_size)
    machine["runs_at_once"] = int(os.environ.get("LORA_VARIANTS_RUNS_AT_ONCE", "1"))
    if reference:
        machine["reference"] = True
    return RunResult(
        id=config.id,
        benchmark=benchmark(config.benchmark).name,
        task=config.task,
        variant=variant.name,
        variant_config=variant.options(),
        protocol=config.protocol,
        overrides=config.overrides,
        budget=config.budget,
        seed=config.seed,
        backbone={k: config.backbone[k] for k in ("source", "name", "hash", "frozen") if k in config.backbone},
        data={k: config.data[k] for k in ("source", "name", "hash")}
        | {"sizes": prepared.sizes}
        | ({"notes": list(prepared.notes)} if prepared.notes else {}),
        training=config.training,
        trainer={k: v for k, v in config.trainer.items() if k not in NEUTRAL},
        code=config.code,
        init_from=config.init_from,
        metric=prepared.objective.metric,
        epochs=history.epochs,
        best=history.best,
        last=history.last,
        test=test,
        parameters=parameters,
        cost=cost(history, prepared.data, config, stacked),
        variant_metrics=variant_metrics,
        environment=machine,
        wandb_id=wandb_id,
    )


# ---- runs whose training is over -----------------------------------------------------------------------------------


def trained_before(configs: Iterable[RunConfig]) -> dict[str, RunResult]:
    """The records of the runs that these are trained as, by the ids of these; one whose record, or an adapter of it, is
    not there as it was left is none of them: it trains."""
    records = {}
    for config in configs:
        folder = Path(config.results_dir) / (config.trained_as or "")
        record = ResultStore(folder.parent.parent).read(folder.name) if config.trained_as else None
        if record is not None and not record.diverged and _whole(record):
            records[config.id] = record
    return records


def _whole(record: RunResult) -> bool:
    try:
        return all(
            read_adapter(record.folder / name)[0].get("epoch") == getattr(record, name)["epoch"] for name in ADAPTERS
        )
    except VariantError:
        return False


def agree(losses: Sequence[float], records: Sequence[RunResult]) -> bool:
    """Whether dev losses that were computed anew are those that the records have of the best epoch.

    Stacks, machines and kernels round in other ways. A number of bfloat16 is right to 0.4 % (2 ** -8), one of TF32 to
    0.05 %; the mean over all rows is off by less than one number is, and fresh or foreign values by far more.

    Args:
        losses: of the best adapters, one for each record.
    """
    for loss, record in zip(losses, records, strict=True):
        bound = 1e-2 if "16" in record.training.get("precision", "32-true") else 1e-3
        if not math.isclose(loss, record.best["loss"], rel_tol=bound):
            return False
    return True


def take_adapters(config: RunConfig, record: RunResult, prepared: Prepared) -> None:
    """Give a run the adapters of the one that it was trained as."""
    for which in ADAPTERS:
        copy_adapter(record.folder / which, config.folder / which, **notes(config, prepared))


def scored_result(config: RunConfig, record: RunResult, test: dict[str, Any] | None, wandb_id: str | None) -> RunResult:
    """The record of the training under the run's own name and settings, with the figures of its test: epochs, cost and
    environment are those of the training."""
    own = {name: getattr(config, name) for name in ("id", "protocol", "overrides", "budget", "training")}
    cost = record.cost | {"trained_as": config.trained_as}
    return dataclasses.replace(record, **own, cost=cost, test=test, wandb_id=wandb_id)
