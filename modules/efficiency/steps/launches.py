"""The kernel launches of a step, counted with torch's profiler."""

from __future__ import annotations

import os

import torch

from modules.efficiency.steps.backbones import Batch
from modules.efficiency.steps.stepper import Stepper

LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaLaunchCooperativeKernel")
"""Beginnings of the names of the CUDA calls that start work on the GPU; a graph is started by a single call."""


def count_launches(stepper: Stepper, batch: Batch) -> dict[str, int]:
    """``launches``: calls that start work, made by the host in a step; ``kernels``: kernels that the GPU runs in it."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    os.environ["TEARDOWN_CUPTI"] = "0"  # set up a second time, it crashes where CUDA graphs have been captured
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        stepper(batch)
        torch.cuda.synchronize()
    host = kernels = 0
    for event in profiler.events():
        if event.device_type != DeviceType.CUDA:
            host += event.name.startswith(LAUNCHES)
        elif not event.name.startswith(("Memcpy", "Memset")) and not getattr(event, "is_user_annotation", False):
            kernels += 1
    return {"launches": host, "kernels": kernels}
