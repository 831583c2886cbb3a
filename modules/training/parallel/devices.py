"""Which devices a run computes on, as its Trainer options and this machine say."""

from __future__ import annotations

import torch

from modules.runs import ranks
from modules.runs.config import RunConfig


def on_cpu(config: RunConfig) -> bool:
    """Whether the run computes on the CPU."""
    return ranks.on_cpu(config.trainer)


def in_one_process(config: RunConfig) -> bool:
    """Whether the run is one process on one device."""
    return ranks.on_one_device(config.trainer)


def on_gpu(config: RunConfig) -> bool:
    """Whether the run computes on GPUs of NVIDIA's or AMD's."""
    return torch.cuda.is_available() and config.trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda")


def in_shards(config: RunConfig) -> bool:
    """Whether the frozen base is spread over the devices, a shard on each (``--trainer.strategy fsdp2``)."""
    return config.trainer.get("strategy") == "fsdp2"
