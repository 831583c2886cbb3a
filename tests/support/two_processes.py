"""A function in two processes that know one another, as ranks of one run."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

ROOT = Path(__file__).resolve().parents[2]
WORLD = 2


def in_two_processes(folder: Path, function: Callable[..., Any], *arguments: Any, gpus: bool = False) -> list[Any]:
    """What ``function(device, *arguments)`` of a module gives on each rank; tensors of it on the CPU.

    Args:
        folder: an empty one, for the processes' results.
        gpus: a GPU for each, with NCCL; else both on the CPU, with gloo.
    """
    work = folder / "work.pickle"
    work.write_bytes(pickle.dumps((function.__module__, function.__name__, arguments)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "NODE_RANK": "0", "WORLD_SIZE": str(WORLD)}
    command = [sys.executable, "-m", "tests.support.two_processes", str(folder), str(int(gpus))]
    workers = [
        subprocess.Popen([*command, str(rank)], env=environment | {"LOCAL_RANK": str(rank), "RANK": str(rank)})
        for rank in range(WORLD)
    ]
    try:
        assert [worker.wait(timeout=240) for worker in workers] == [0] * WORLD
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


def main(folder: Path, gpus: bool, rank: int) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    device = torch.device("cuda", rank) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    store = f"file://{folder}/store"
    dist.init_process_group("nccl" if gpus else "gloo", store, rank=rank, world_size=WORLD)
    module, name, arguments = pickle.loads((folder / "work.pickle").read_bytes())
    try:
        torch.save(getattr(importlib.import_module(module), name)(device, *arguments), folder / f"{rank}.pt")
    except Exception:
        traceback.print_exc()
        os._exit(1)  # the other one may wait for this one
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "1", int(sys.argv[3]))
