"""Model and data made ready for how a run is carried out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from modules.acceleration.frozen_precision import lower_frozen
from modules.acceleration.packed_encoder import first_position, unpad
from modules.benchmarks.base import Prepared
from modules.data.module import PaddedDataModule
from modules.runs.config import RunConfig
from variants.adapters.adapted_model import Adapted
from variants.adapters.stack import Stack
from variants.errors import UserError
from variants.formats.native import read_adapter
from variants.variant import BaseVariant


def settle(prepared: Prepared, config: RunConfig, variant: BaseVariant) -> tuple[str, bool]:
    """Make model and data ready for how steps are carried out: (Lightning's precision, whether as CUDA graphs)."""
    precision = config.training.get("precision", "32-true")
    if precision == "bf16-mixed" and not list(variant.trainable(prepared.model)):
        lower_frozen(prepared.model, torch.bfloat16)  # adapters look after themselves: no autocast is needed
        precision = "32-true"
    graphs = uses_graphs(config, precision)
    prepared.data.fill = graphs  # every batch of a length has one shape
    if on_cpu(config):
        prepared.data.pad_exactly()  # nothing there gains by few shapes
    return precision, graphs


def initialise(adapted: Adapted, config: RunConfig, data: PaddedDataModule) -> dict[str, int]:
    """Give the active adapter what it starts with beyond its own initial values; its parameters, counted."""
    if config.init_from:
        start_from(adapted, Path(config.results_dir) / "runs" / config.init_from["id"] / "best")
    adapted.init_from_data(_few_batches(data))
    return adapted.count()


def leave_padding_out(handle: Adapted | Stack, data: PaddedDataModule, config: RunConfig) -> None:
    """Pack the rows of batches from now on, where the model can take them; torch.compile wants few shapes, and on a CPU
    seeds that are trained at once would have to have equally many tokens."""
    can = len(data.seeds) == 1 if on_cpu(config) else on_gpu(config)
    wanted = config.training.get("pad", "bucket") == "bucket" and config.compile != "inductor"
    if can and wanted and unpad(handle):
        data.pack(first_position(handle.model), rounded=data.fill and not on_cpu(config))


def optimisation(config: RunConfig) -> dict[str, Any]:
    """The training settings that the LightningModule takes."""
    names = ("lr", "head_lr", "weight_decay", "warmup_ratio", "warmup_steps", "adam_eps")
    return {name: config.training[name] for name in names if name in config.training}


def _few_batches(data: PaddedDataModule, count: int = 8):
    """The first training batches, read only by a variant that asks for them (``init_from_data``)."""
    for index, batch in enumerate(data.train_dataloader()):
        if index == count:
            return
        yield batch


def on_cpu(config: RunConfig) -> bool:
    """Whether the run computes on the CPU."""
    accelerator = config.trainer.get("accelerator", "auto")
    return accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())


def on_gpu(config: RunConfig) -> bool:
    """Whether the run computes on GPUs."""
    return torch.cuda.is_available() and config.trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda")


def uses_graphs(config: RunConfig, precision: str) -> bool:
    """Whether training steps are replayed as CUDA graphs: on one GPU, not under fp16, whose scale may skip a step."""
    trainer = config.trainer
    alone = trainer.get("devices", 1) in (1, "1") and trainer.get("num_nodes", 1) == 1 and "strategy" not in trainer
    return config.compile != "off" and alone and on_gpu(config) and precision != "16-mixed"


def start_from(adapted: Adapted, folder: Path) -> None:
    """Take over what another run of the same configuration learnt, where shapes agree.

    The output layer of a task with another number of classes stays fresh, as in the LoRA authors' scripts. State that
    is not trained (AdaLoRA's averages) starts anew.
    """
    _, tensors = read_adapter(folder)
    own, head = adapted.trained(), set(adapted.head)
    for name, parameter in own.items():
        if name in tensors and tensors[name].shape == parameter.shape:
            parameter.data.copy_(tensors[name])
        elif name not in head:
            raise UserError(f"cannot start from {folder}: {name} is not there in the shape that this run needs")
