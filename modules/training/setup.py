"""Model, data and adapters of a run, made ready for training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modules.benchmarks.base import Prepared, benchmark
from modules.data.module import PaddedDataModule
from modules.runs.config import RunConfig
from modules.training.acceleration import lower_backbone
from modules.training.parallel import devices
from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.starting import begin_as, start_from
from variants.formats.native import read_adapter
from variants.outside.options import build
from variants.quantisation import quantise
from variants.registry import resolve
from variants.sites.architectures import head_parameters


def attach_adapters(configs: Sequence[RunConfig]) -> tuple[Prepared, AdaptedModel, list[dict[str, int]], str]:
    """An adapter for each run, with its own head and initial values, on the model that the first run prepares.

    Args:
        configs: runs that differ in seeds and learning rates alone; those of a seed side by side load it once.

    Returns:
        What the first run prepares, whose data gives the batches of all; the handle, with the adapters by the runs'
        ids; the counted parameters of each; and Lightning's ``precision``.
    """
    counts: list[dict[str, int]] = []
    seed = None
    for config in configs:
        variant = build(resolve(config.variant), config.options)
        if config.seed != seed:
            seed, own = config.seed, benchmark(config.benchmark).prepare(config)
            if devices.on_cpu(config):
                own.data.pad_exactly()  # nothing there gains by few shapes
            if not counts:
                prepared, precision = own, lower_backbone(own.model, variant, config)
                adapted = AdaptedModel(own.model, head_parameters(own.model))
            head = {name: p.detach().clone() for name, p in own.model.named_parameters() if name in set(adapted.head)}
        adapted.add(config.id, variant, config.seed)
        with torch.no_grad():
            for name, parameter in prepared.model.named_parameters():
                if name in head:
                    parameter.copy_(head[name])
        counts.append(initialise(adapted, config, own))
    if scheme := config.training.get("quantise"):
        bits = torch.bfloat16 if "bf16" in config.training.get("precision", "") else None
        note = quantise(adapted, scheme, compute_dtype=bits, device=None if devices.on_cpu(config) else "cuda")
        prepared.notes = [*prepared.notes, note.words]
    prepared.data.seeds = [config.seed for config in configs]
    rows = prepared.data.eval_batch_size  # as many for all together, but no fewer of each than it trains on
    prepared.data.eval_batch_size = max(rows // len(configs), min(rows, prepared.data.batch_size))
    return prepared, adapted, counts, precision


def initialise(adapted: AdaptedModel, config: RunConfig, prepared: Prepared) -> dict[str, int]:
    """Give the active adapter what it starts with beyond its own initial values; its parameters, counted."""

    def loss(batch: dict[str, Tensor]) -> Tensor:
        losses, weights, _ = prepared.objective.losses(adapted.model, batch, training=False)
        return (weights * losses).sum()

    adapted.init_from_data(_few_batches(prepared.data), loss)
    if config.init_from:  # after the values from data, whose place it takes
        folder = Path(config.results_dir) / "runs" / config.init_from["id"] / "best"
        start_from(adapted, read_adapter(folder)[1], str(folder))
    if config.trained_as and adapted.variant.subtract_initial:
        begin_as(adapted, read_adapter(Path(config.results_dir) / config.trained_as / "best")[1])
    return adapted.count()


def optimisation(config: RunConfig) -> dict[str, Any]:
    """The training settings that the LightningModule takes."""
    names = ("lr", "head_lr", "weight_decay", "warmup_ratio", "warmup_steps", "adam_eps")
    return {name: config.training[name] for name in names if name in config.training}


def _few_batches(data: PaddedDataModule, count: int = 8) -> Iterator[dict[str, Tensor]]:
    """The first training batches, read only by a variant that asks for them (``init_from_data``)."""
    for index, batch in enumerate(data.train_dataloader()):
        if index == count:
            return
        yield batch
