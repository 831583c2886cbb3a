"""Runs of the GLUE command as its tests plan them, carry them out and read them."""

import dataclasses
import os
import subprocess
import sys

import torch
from safetensors.torch import load_file

from modules.experiments.flags import make_parser, names_of, seeds_of
from modules.experiments.plan import Wishes, make_plan
from modules.runs.config import RunConfig
from variants.registry import resolve

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def planned(command: list[str], variant: str = "lora", **changes) -> list[RunConfig]:
    """The runs that the command line would do."""
    flags = make_parser(resolve(variant)).parse_args(command)
    training = {k: flags[k] for k in ("lr", "batch_size", "epochs") if flags[k] is not None}
    wishes = Wishes(
        variant=variant,
        model=flags.model,
        data_dir=flags.data_dir,
        tasks=names_of(flags.tasks),
        seeds=seeds_of(flags.seeds),
        training=training,
        trainer=flags.trainer or {},
        results_dir=flags.results_dir,
        wandb=flags.wandb,
    )
    plan = make_plan(dataclasses.replace(wishes, **changes), resolve(variant))
    for run in plan.runs:
        run.write()
    return plan.runs


def work(*runs: RunConfig, check: bool = True) -> subprocess.CompletedProcess:
    """Carry the runs out in a worker process, as the command does."""
    arguments = [sys.executable, "-m", "modules.launch.worker", runs[0].results_dir, *(run.id for run in runs)]
    return subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, check=check, timeout=300)


def adapter(run: RunConfig, which: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run.folder / which / "adapter.safetensors")
