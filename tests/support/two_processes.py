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

from modules.launch.ranks import free_port
from tests.support.forked import Forked

WORLD = 2


def in_two_processes(folder: Path, function: Callable[..., Any], *arguments: Any, gpus: bool = False) -> list[Any]:
    """What ``function(device, *arguments)`` of a module gives on each rank; tensors of it on the CPU.

    Args:
        folder: an empty one, for the processes' results.
        gpus: a GPU for each, with NCCL; else both on the CPU, with gloo.
    """
    as_two_ranks(folder / "log", _on_rank, folder, gpus, function, arguments)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


def as_two_ranks(log: Path, function: Callable[..., None], *arguments: Any, environment: dict[str, str] = os.environ):
    """``function(*arguments)`` in two processes that know each other from their environment, as torchrun's do.

    Args:
        log: a file for what they print.
    """
    common = {**environment, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": str(WORLD)}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"}
    own = [{"LOCAL_RANK": str(rank), "RANK": str(rank)} for rank in range(WORLD)]
    ranks = [Forked(function, *arguments, environment=common | each, output=log) for each in own]
    try:
        assert [rank.wait() for rank in ranks] == [0] * WORLD, log.read_text()
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()


def _on_rank(folder: Path, gpus: bool, function: Callable[..., Any], arguments: tuple) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
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
