"""Worker processes: how many, on which GPUs, and what they are started with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from modules.launch.claims import last_held_by
from modules.processes import WITH_PARENT, not_interrupted

KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
"""For glibc in a worker: keep the memory that a step frees. Asking the system anew is a tenth of a CPU step."""

PATIENCE = 10.0
"""Seconds that a worker has to end after SIGTERM."""


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
    beside = int(os.environ.get("LORA_VARIANTS_RUNS_AT_ONCE", "1"))  # where this is one job of several
    environment = dict(os.environ) | {
        "LORA_VARIANTS_RUNS_AT_ONCE": str(beside * at_once),
        WITH_PARENT: str(os.getpid()),
    }
    if at_once > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // at_once)))
    environment = KEEP_MEMORY | environment
    gpus = visible_gpus() if at_once > 1 else []
    worst = 0
    for start in range(0, len(lists), at_once):
        parts, workers = lists[start : start + at_once], []
        try:
            with not_interrupted():
                for k, part in enumerate(parts):
                    gpu = {"CUDA_VISIBLE_DEVICES": gpus[k % len(gpus)]} if gpus else {}
                    command = [sys.executable, "-m", "modules.launch.worker", results_dir, *part]
                    workers.append(subprocess.Popen(command, env=environment | gpu))
            codes = [worker.wait() for worker in workers]
        finally:  # stopped by hand or by a scheduler: no worker is left behind
            _end(workers)
        codes = [_told(code, workers[k], results_dir, parts[k]) for k, code in enumerate(codes)]
        worst = max([worst, *codes])
        if worst == 2:
            break
    return worst


def _end(workers: Sequence[subprocess.Popen]) -> None:
    """End the workers that still run: by SIGTERM, and after ``PATIENCE`` by SIGKILL."""
    running = [worker for worker in workers if worker.poll() is None]
    for worker in running:
        worker.terminate()
    deadline = time.monotonic() + PATIENCE
    for worker in running:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def _told(code: int, worker: subprocess.Popen, results_dir: str, words: Sequence[str]) -> int:
    """A worker's exit code as the command's: 1 for one that was killed, which is said; nobody else can say it."""
    number = -code if code < 0 else code - 128
    if code in (0, 1, 2, 130) or number not in {known.value for known in signal.Signals}:
        return code
    titles = last_held_by(worker.pid, results_dir, [id for word in words for id in word.split("+")])
    why = ", as the system does where memory runs out" if number == signal.SIGKILL else ""
    print(
        f"error: {', '.join(titles) or 'a worker'} was ended by signal {number} ({signal.Signals(number).name}){why}; "
        "the same command goes on from its last epoch",
        file=sys.stderr,
        flush=True,
    )
    return 1
