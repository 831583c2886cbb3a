"""A function in two processes that know one another, as ranks of one run."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.support.forked import Forked

WORLD = 2


def in_two_processes(folder: Path, function: Callable[..., Any], *arguments: Any, gpus: bool = False) -> list[Any]:
    """What ``function(device, *arguments)`` of a module gives on each rank; tensors of it on the CPU.

    Args:
        folder: an empty one, for the processes' results.
        gpus: a GPU for each, with NCCL; else both on the CPU, with gloo.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "NODE_RANK": "0", "WORLD_SIZE": str(WORLD)}
    log = folder / "log"
    workers = [
        Forked(
            _on_rank, folder, gpus, rank, function, arguments, output=log,
            environment=environment | {"LOCAL_RANK": str(rank), "RANK": str(rank)},
        )
        for rank in range(WORLD)
    ]  # fmt: skip
    try:
        assert [worker.wait() for worker in workers] == [0] * WORLD, log.read_text()
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


def _on_rank(folder: Path, gpus: bool, rank: int, function: Callable[..., Any], arguments: tuple) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    device = torch.device("cuda", rank) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpus else "gloo", f"file://{folder}/store", rank=rank, world_size=WORLD)
    try:
        torch.save(function(device, *arguments), folder / f"{rank}.pt")
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # the other one may wait for this one
    dist.destroy_process_group()
