"""Worker processes: how many, on which GPUs, and what they are started with."""

from __future__ import annotations

import os
import subprocess
import sys

KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
"""For glibc in a worker: keep the memory that a step frees. Asking the system anew is a tenth of a CPU step."""


def default_jobs() -> int:
    """A run for each GPU; on CPUs for each core: small models gain little from several threads."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return torch.cuda.device_count() or cores


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name: its own entries where it is set, else the numbers of all GPUs."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(k) for k in range(torch.cuda.device_count())] if named is None else named.split(",")
    return [gpu.strip() for gpu in gpus if gpu.strip()][: torch.cuda.device_count()]


def run_workers(ids: list[str], results_dir: str, jobs: int, one_by_one: bool = False) -> int:
    """Start workers for the runs ``ids`` (``id+id`` for runs that are stacked) and wait; the worst of their exit codes.

    Workers that run at once take the visible GPUs in turn, one each.
    """
    if not ids:
        return 0
    lists = [[id] for id in ids] if one_by_one else [ids[k:] + ids[:k] for k in range(min(jobs, len(ids)))]
    at_once = 1 if one_by_one else len(lists)
    environment = dict(os.environ) | {"LORA_VARIANTS_RUNS_AT_ONCE": str(at_once)}
    if at_once > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // at_once)))
    environment = KEEP_MEMORY | environment
    gpus = visible_gpus() if at_once > 1 else []
    worst = 0
    for start in range(0, len(lists), at_once):
        workers = [
            subprocess.Popen(
                [sys.executable, "-m", "modules.launch.worker", results_dir, *part],
                env=environment | ({"CUDA_VISIBLE_DEVICES": gpus[k % len(gpus)]} if gpus else {}),
            )
            for k, part in enumerate(lists[start : start + at_once])
        ]
        try:
            worst = max([worst, *(abs(worker.wait()) for worker in workers)])
        finally:  # stopped by hand or by a scheduler: no worker is left behind
            for worker in workers:
                if worker.poll() is None:
                    worker.terminate()
            for worker in workers:
                worker.wait()
        if worst == 2:
            break
    return worst
