"""Runs of the GLUE command as its tests plan them, carry them out and read them."""

import dataclasses
import os
import subprocess
import sys

import torch
from safetensors.torch import load_file

from modules.benchmarks.glue import GLUE
from modules.experiments.flags import make_parser
from modules.experiments.plan import make_plan
from modules.experiments.wishes import Wishes
from modules.launch import worker
from modules.launch.ranks import free_port
from modules.runs.config import RunConfig
from variants.registry import resolve

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def planned(command: list[str], variant: str = "lora", **changes) -> list[RunConfig]:
    """The runs that the command line would do."""
    cls = resolve(variant)
    wishes = Wishes.of(make_parser(cls, GLUE).parse_args(command), GLUE, cls)
    wishes.variant = variant
    plan = make_plan(dataclasses.replace(wishes, **changes), cls)
    for run in plan.runs:
        run.write()
    return plan.runs


def carry_out(*runs: RunConfig) -> None:
    """Carry the runs out in this process: quicker, where a process of their own is not the point."""
    assert worker.main([runs[0].results_dir, *(run.id for run in runs)]) == 0


def work(*runs: RunConfig, check: bool = True) -> subprocess.CompletedProcess:
    """Carry the runs out in a worker process, as the command does."""
    arguments = [sys.executable, "-m", "modules.launch.worker", runs[0].results_dir, *(run.id for run in runs)]
    return subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, check=check, timeout=300)


def in_two(*runs: RunConfig) -> None:
    """Carry the runs out in two processes, one after the other: quicker than two processes for each of them."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0"}
    code = "import sys; from modules.runs.config import RunConfig; from modules.training.run import run\n"
    code += "for folder, id in zip(sys.argv[1::2], sys.argv[2::2]): run(RunConfig.read(folder, id))"
    command = [sys.executable, "-c", code, *(word for run in runs for word in (run.results_dir, run.id))]
    ranks = []
    for rank in "01":
        environment = ENVIRONMENT | place | {"LOCAL_RANK": rank}
        ranks.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [rank.communicate(timeout=600)[1] for rank in ranks]
    assert not any(rank.returncode for rank in ranks), "\n".join(errors)


def adapter(run: RunConfig, which: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run.folder / which / "adapter.safetensors")
