"""The one property that needs processes: training on two gives what training on one does."""

from __future__ import annotations

import importlib.util
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from variants.contract.models import NotApplicable, Subject, distance, optimizer_steps, target_outputs
from variants.outside.files import load_file, loaded_by_path
from variants.outside.places import located
from variants.start import python

NAME = "DDP"
WORLD, STEPS, LR, TOLERANCE = 2, 3, 0.02, 1e-5
NOISE = 30
"""How much further off than by the rounding of another order of rows two processes may be."""
JOBS, STARTS = "jobs.pickle", "starts.pt"


def distributed(subjects: Sequence[Subject], timeout: float = 300.0) -> list[str]:
    """Train each subject on one process and on two, half a batch each; all share one pair of processes.

    Args:
        timeout: seconds after which the processes are ended.

    Returns:
        A reason for each subject that fails, and an empty string for each that holds.
    """
    starts, expected, reasons = [], [], []
    for subject in subjects:
        try:
            start = {k: t.clone() for k, t in subject.trained().state_dict().items()}
            found = _train(subject, start), _train(subject, start, backwards=True)
            starts, expected, reasons = [*starts, start], [*expected, found], [*reasons, ""]
        except Exception as error:
            starts, expected, reasons = [*starts, {}], [*expected, ({}, {})], [*reasons, located(error)]
    with tempfile.TemporaryDirectory() as folder:
        torch.save(starts, Path(folder) / STARTS)
        results = _launch(subjects, Path(folder), timeout)
    for i, reason in enumerate(reasons):
        for rank, result in enumerate(results):
            reasons[i] = reason = reason or _compare(result[i], expected[i], rank)
    return reasons


def _compare(found: dict[str, Tensor] | str, expected: tuple[dict[str, Tensor], dict[str, Tensor]], rank: int) -> str:
    if isinstance(found, str):
        return f"on rank {rank}: {found}"
    for name, tensor in expected[0].items():
        rounding = distance(expected[1][name], tensor)
        if not (off := distance(found[name], tensor)) <= max(TOLERANCE, NOISE * rounding):
            return f"after {STEPS} steps {name} on rank {rank} is {off:.1e} from that of one process"
    return ""


def _train(
    subject: Subject, start: dict[str, Tensor], rank: int = 0, world: int = 1, backwards: bool = False
) -> dict[str, Tensor]:
    adapted = subject.attached()
    adapted.load_state_dict(start)
    model = adapted.model.eval()  # no dropout: it would differ by rank, as it should
    if world > 1:
        model = DistributedDataParallel(model, find_unused_parameters=False, broadcast_buffers=False)
    x = subject.inputs()
    y = target_outputs(subject, x)
    if backwards:  # the same up to rounding
        x, y = x.flip(0), y.flip(0)
    optimizer_steps(adapted, x[rank::world], y[rank::world], STEPS, torch.optim.SGD, model, lr=LR)
    return adapted.state_dict()


def _launch(subjects: Sequence[Subject], folder: Path, timeout: float) -> list[list]:
    """Processes of their own, not of multiprocessing, which would run the caller's script again in each."""
    modules = {type(subject.variant).__module__ for subject in subjects}
    if "__main__" in modules:
        raise NotApplicable("other processes cannot import a class of __main__: put it into a file of its own")
    files = {name: str(Path(sys.modules[name].__file__).resolve()) for name in modules}
    (folder / JOBS).write_bytes(pickle.dumps((sys.path, files, pickle.dumps(list(subjects)))))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = python("variants.contract.ddp", str(folder))
    with open(folder / "log", "w+") as log:
        workers = [subprocess.Popen([*command, str(r)], env=environment, stderr=log) for r in range(WORLD)]
        for worker in workers:
            try:
                worker.wait(timeout)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        log.seek(0)
        last = (log.read().strip().splitlines() or ["a process ended without a word"])[-1]
    written = [folder / f"{rank}.pt" for rank in range(WORLD)]
    return [torch.load(f, weights_only=True) if f.exists() else [last] * len(subjects) for f in written]


def main(folder: Path, rank: int) -> None:
    """One of the processes: writes each subject's state after training, or why there is none."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if "lo" in [name for _, name in socket.if_nameindex()]:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a host name that does not resolve would end it here
    # pickles of our own, written a moment ago into a folder that only this user can read
    sys.path, files, jobs = pickle.loads((folder / JOBS).read_bytes())
    for name, file in files.items():
        if loaded_by_path(name):
            load_file(Path(file))
        elif name not in sys.modules and importlib.util.find_spec(name) is None:
            load_file(Path(file), name)
    subjects = pickle.loads(jobs)
    starts = torch.load(folder / STARTS, weights_only=True)
    limit = timedelta(seconds=60)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=WORLD, timeout=limit)
    results: list[dict[str, Tensor] | str] = []
    for index, (subject, start) in enumerate(zip(subjects, starts, strict=True)):
        torch.manual_seed(1000 * rank + index)  # what draws from the global RNG differs by rank
        try:
            results.append(_train(subject, start, rank, WORLD))
        except Exception as error:
            unused = "Expected to have finished reduction" in str(error)
            results.append("a tensor that trains has no part in a pass: see 'gradients'" if unused else located(error))
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
