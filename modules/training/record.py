"""The record of a finished run."""

from __future__ import annotations

import os
from typing import Any

from lightning.pytorch import Trainer

from modules.benchmarks.base import Prepared
from modules.runs.config import NEUTRAL, RunConfig
from modules.runs.environment import environment
from modules.runs.results import RunResult
from modules.training.callbacks import History
from modules.training.cost import _cost
from variants.registry import resolve


def notes(config: RunConfig) -> dict[str, Any]:
    """Readable facts for adapter files."""
    return {"task": config.task, "run": config.id, "spec": config.variant}


def make_result(config: RunConfig, prepared: Prepared, history: History, trainer: Trainer) -> RunResult:
    """What a run's file holds; counted parameters and figures beyond the epochs' are left to be filled in."""
    variant = resolve(config.variant)(**config.options)
    return RunResult(
        id=config.id,
        benchmark=config.benchmark,
        task=config.task,
        variant=variant.name,
        variant_config=variant.options(),
        protocol=config.protocol,
        overrides=config.overrides,
        budget=config.budget,
        seed=config.seed,
        backbone={k: config.backbone[k] for k in ("source", "name", "hash")},
        data={k: config.data[k] for k in ("source", "name", "hash")} | {"sizes": prepared.sizes},
        training=config.training,
        trainer={k: v for k, v in config.trainer.items() if k not in NEUTRAL},
        code=config.code,
        init_from=config.init_from,
        metric=prepared.objective.metric,
        epochs=history.epochs,
        best=history.best,
        last=history.last,
        parameters={},
        cost=_cost(history, prepared.data, config),
        environment=environment(str(trainer.strategy.root_device), trainer.world_size)
        | {"runs_at_once": int(os.environ.get("LORA_VARIANTS_RUNS_AT_ONCE", "1"))},
    )
