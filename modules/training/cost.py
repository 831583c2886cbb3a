"""What a run costs: time, tokens, memory, file size."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from modules.data.module import PaddedDataModule
from modules.runs.config import RunConfig
from modules.training.history import History

_starts: list[float] = []
"""Resident MiB of this process where each of its runs began."""


def reset_peak_memory() -> None:
    """Start measuring peak memory here, on the GPU and, where the system lets us, of this process.

    What an earlier run of this process had is given back first.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError, AttributeError):  # glibc's alone
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    _starts.append(_resident_mb("VmRSS"))


def peak_memory_mb() -> float:
    """Peak MiB of the run: allocated on the GPU if there is one, else resident memory of this process.

    The process's libraries count, what its earlier runs left behind does not: on a CPU equal runs have the same figure
    but for a few percent, which the allocator's free memory makes. Where the system cannot begin its count anew (other
    than Linux) it is the peak of all runs of the process so far.
    """
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    left = _starts[-1] - _starts[1] if len(_starts) > 2 else 0.0  # the first run loads libraries, which stay
    return _resident_mb("VmHWM") - max(0.0, left)


def _resident_mb(field: str) -> float:
    """``VmRSS``, the resident memory now, or ``VmHWM``, its peak, in MiB; always the peak where there is no /proc."""
    try:
        return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def cost(history: History, data: PaddedDataModule, config: RunConfig, stacked: int = 1) -> dict[str, Any]:
    """What a run cost, as its result file has it.

    Args:
        stacked: how many seeds were trained at once; time and memory are those of all of them.

    Returns:
        ``step_ms`` (median over the epochs; None where nothing was trained), ``epoch_step_ms`` (each epoch's mean),
        ``steps``, ``tokens`` (without padding), ``tokens_per_s``, ``peak_memory_mb`` (MiB), ``wall_s``, ``file_bytes``
        of the best adapter, ``diverged``, and ``stacked`` where it is more than one.
    """
    tokens = data.tokens_per_epoch * len(history.step_seconds)
    seconds = sum(history.step_seconds) * data.steps_per_epoch
    found = {
        "step_ms": round(1000 * statistics.median(history.step_seconds), 3) if history.steps else None,
        "epoch_step_ms": [round(1000 * mean, 3) for mean in history.step_seconds],
        "steps": history.steps,
        "tokens": tokens,
        "tokens_per_s": round(tokens * stacked / seconds, 1) if seconds else None,
        "peak_memory_mb": round(peak_memory_mb(), 1),
        "wall_s": round(history.seconds, 2),
        "file_bytes": sum(
            file.stat().st_size
            for file in (config.folder / "best").glob("[!.]*")  # nothing half-written
        ),
        "diverged": history.diverged,
    }
    return found if stacked == 1 else found | {"stacked": stacked}
