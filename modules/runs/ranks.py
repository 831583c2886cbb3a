"""The ranks of a run: the processes over which its Trainer options spread it, and who starts them."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from variants.errors import UserError

BY_WORKER = "LORA_VARIANTS_RANKS"
"""Variable that a worker sets for the ranks that it starts (`modules/launch/ranks.py`): how many there are."""

LAUNCHERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "JSM_NAMESPACE_SIZE")
"""How srun, mpirun and jsrun say how many processes they have started. A script that sbatch runs has none of them."""

WAIT = "LORA_VARIANTS_RANKS_WAIT"
"""Variable with the seconds for which a rank waits for the others in a collective operation."""
LONGEST_WAIT = 1800.0
"""Its default: one rank may be at something long that the others wait for, such as writing on a slow disk."""


def launched() -> bool:
    """Whether a launcher (torchrun, srun, mpirun) has started this process as a rank: no others are started then."""
    if BY_WORKER in os.environ:
        return False
    several = any(os.environ.get(name, "").isdigit() and int(os.environ[name]) > 1 for name in LAUNCHERS)
    return several or "TORCHELASTIC_RUN_ID" in os.environ or "LOCAL_RANK" in os.environ


def rank() -> int:
    """The number of this process among the ranks of its run; 0 where it is the only one."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), 0)


def world_size() -> int:
    """How many ranks the run of this process has, on all machines, as whoever started them says."""
    names = ("WORLD_SIZE", *LAUNCHERS)
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), 1)


def longest_wait() -> timedelta:
    """The time-out of collective operations: no rank waits longer for the others. Raises UserError."""
    return timedelta(seconds=seconds(WAIT, LONGEST_WAIT))


def seconds(name: str, default: float) -> float:
    """The value of a variable that says how long something may last. Raises UserError where it is no such number."""
    text = os.environ.get(name) or str(default)
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise UserError(f"{name} must be a number of seconds above 0, not {text!r}")


def on_cpu(trainer: Mapping[str, Any]) -> bool:
    """Whether Trainer options let a run compute on the CPU of this machine."""
    accelerator = trainer.get("accelerator", "auto")
    if accelerator != "auto":
        return accelerator == "cpu"
    import torch  # takes seconds

    return not torch.accelerator.is_available()


def named_devices(trainer: Mapping[str, Any]) -> list[int] | None:
    """The devices that ``devices`` picks by their numbers (a list of them, or ``0,1``); None where it is a count."""
    devices = trainer.get("devices", 1)
    if isinstance(devices, str) and "," in devices:
        devices = [int(part) for part in devices.split(",") if part.strip().isdigit()]
    return list(devices) if isinstance(devices, (list, tuple)) else None


def local_ranks(trainer: Mapping[str, Any]) -> int:
    """How many processes of this machine Trainer options ask for, as Lightning reads them; 1 where it refuses them."""
    if (named := named_devices(trainer)) is not None:
        return max(1, len(named))
    devices = trainer.get("devices", 1)
    if devices in (-1, "-1", "auto"):
        import torch

        return 1 if on_cpu(trainer) else max(1, torch.accelerator.device_count())
    return max(1, int(devices)) if str(devices).isdigit() else 1


def on_one_device(trainer: Mapping[str, Any]) -> bool:
    """Whether a run is one process on one device, and nothing is said of how it would be spread."""
    return local_ranks(trainer) == 1 and trainer.get("num_nodes", 1) == 1 and "strategy" not in trainer
