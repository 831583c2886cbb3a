"""Which devices a run computes on, as its Trainer options and this machine say."""

from __future__ import annotations

import torch

from modules.runs.config import RunConfig


def on_cpu(config: RunConfig) -> bool:
    """Whether the run computes on the CPU."""
    accelerator = config.trainer.get("accelerator", "auto")
    return accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())


def on_gpu(config: RunConfig) -> bool:
    """Whether the run computes on GPUs of NVIDIA's or AMD's."""
    return torch.cuda.is_available() and config.trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda")


def in_one_process(config: RunConfig) -> bool:
    """Whether the run is one process on one device."""
    trainer = config.trainer
    return trainer.get("devices", 1) in (1, "1") and trainer.get("num_nodes", 1) == 1 and "strategy" not in trainer
