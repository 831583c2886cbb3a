"""Worker processes: how many, on which GPUs, and what they are started with."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from modules.launch.failures import Failure, signal_of
from modules.launch.holders import last_held_by
from modules.launch.progress_line import ProgressLine
from modules.processes import WITH_PARENT, end, not_interrupted
from modules.runs.config import RunConfig
from modules.runs.ranks import launched, local_ranks, named_devices, rank
from variants.start import python

KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
"""For glibc in a worker: keep the memory that a step frees. Asking the system anew is a tenth of a CPU step."""

CAPTURABLE = {"TORCH_LINALG_PREFER_CUSOLVER": "1"}
"""For PyTorch in a worker: its other library of linear algebra, MAGMA, waits for the GPU, which no CUDA graph holds."""

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""No Trainer options."""


def default_jobs(trainer: Mapping[str, Any] = NOTHING, stacked: bool = False) -> int:
    """Runs at once: a run for each place (`places`); on CPUs for each core, or each so many cores as it has ranks.

    Args:
        trainer, stacked: as for `places`.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    ranks = local_ranks(trainer)
    on_cpus = ranks if _dealt(trainer, stacked) else max(1, cores // ranks)
    return len(places(trainer, stacked)) or on_cpus


def places(trainer: Mapping[str, Any] = NOTHING, stacked: bool = False) -> list[str]:
    """What workers that run at once take in turn: each a value of CUDA_VISIBLE_DEVICES; none on CPUs.

    Args:
        trainer: Trainer options of the command: a run takes as many of the visible GPUs as it has ranks, or those that
            it names.
        stacked: whether ``devices`` are what stacks of seeds are dealt to (``--stack_seeds``): each takes one of them.
    """
    gpus = [] if trainer.get("accelerator") == "cpu" else visible_gpus()
    ranks, named = local_ranks(trainer), named_devices(trainer)
    if named is not None:
        gpus = [gpus[k] for k in named if k < len(gpus)]
    if _dealt(trainer, stacked):
        gpus, ranks = gpus[:ranks], 1
    return [",".join(gpus[k : k + ranks]) for k in range(0, len(gpus) - ranks + 1, ranks)]


def _dealt(trainer: Mapping[str, Any], stacked: bool) -> bool:
    return stacked and "devices" in trainer


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name: its own entries where it is set, else the numbers of all GPUs."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(k) for k in range(torch.cuda.device_count())] if named is None else named.split(",")
    return [gpu.strip() for gpu in gpus if gpu.strip()][: torch.cuda.device_count()]


def shared_out(at_once: int, trainer: Mapping[str, Any], stacked: bool) -> tuple[int, list[str]]:
    """(how many of ``at_once`` runs can be at once, what they take in turn: values of CUDA_VISIBLE_DEVICES).

    Args:
        trainer, stacked: as for `places`.
    """
    dealt, gpus = _dealt(trainer, stacked), places(trainer, stacked)
    if not dealt and gpus and local_ranks(trainer) > 1:
        at_once = min(at_once, len(gpus))
    if not dealt and (at_once == 1 or named_devices(trainer)):
        gpus = []  # a run that is alone may use what it likes, and one that names its devices sees them all
    return at_once, gpus


def run_workers(
    ids: list[str], results_dir: str, jobs: int, trainer: Mapping[str, Any] = NOTHING, stacked: bool = False
) -> int:
    """Start workers for the runs ``ids`` (``id+id`` for runs that are stacked) and wait; the worst of their exit codes.

    Workers that run at once take the GPUs in turn. Where a launcher has started this process as one of several ranks,
    it starts a worker for each run in this rank's place, up to the first that fails: the other ranks may have failed
    elsewhere, and ranks must not meet in different runs.

    Args:
        jobs: workers at once; fewer where the GPUs do not suffice for so many runs of several ranks.
        trainer, stacked: as for `places`.
    """
    if not ids:
        return 0
    one_by_one = launched()
    at_once, gpus = (1, []) if one_by_one else shared_out(min(jobs, len(ids)), trainer, stacked)
    ranks = 1 if one_by_one or _dealt(trainer, stacked) else local_ranks(trainer)
    lists = [[id] for id in ids] if one_by_one else [ids[k:] + ids[:k] for k in range(at_once)]
    all_runs = at_once * int(os.environ.get("LORA_VARIANTS_RUNS_AT_ONCE", "1"))  # this may be one of several jobs
    environment = dict(os.environ) | {"LORA_VARIANTS_RUNS_AT_ONCE": str(all_runs), WITH_PARENT: str(os.getpid())}
    if all_runs * ranks > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // (all_runs * ranks))))
    environment = KEEP_MEMORY | CAPTURABLE | environment
    worst = 0
    with ProgressLine(ids, results_dir, at_once) as line:
        environment |= line.environment()
        for start in range(0, len(lists), at_once):
            parts, workers = lists[start : start + at_once], []
            try:
                with not_interrupted():
                    for k, part in enumerate(parts):
                        gpu = {"CUDA_VISIBLE_DEVICES": gpus[k % len(gpus)]} if gpus else {}
                        command = python("modules.launch.worker", results_dir, *part)
                        workers.append(subprocess.Popen(command, env=environment | gpu, **line.pipes()))
                        line.listen(workers[-1])
                codes = line.wait(workers)
            finally:  # stopped by hand or by a scheduler: no worker is left behind
                end(workers)
            codes = [_told(code, workers[k], results_dir, parts[k]) for k, code in enumerate(codes)]
            worst = max([worst, *codes])
            if worst == 2 or (worst and one_by_one):
                break
    return worst


def _told(code: int, worker: subprocess.Popen, results_dir: str, words: Sequence[str]) -> int:
    """A worker's exit code as the command's: 1 for one that was killed, which is said; nobody else can say it."""
    if signal_of(code) is None:
        return code
    titles = last_held_by(worker.pid, results_dir, [id for word in words for id in word.split("+")])
    if launched():  # only the first rank holds a run
        titles = [f"rank {rank()} of {RunConfig.read(results_dir, words[0]).title}"]
    return Failure.of_code(code, ", ".join(titles) or "a worker").say()
