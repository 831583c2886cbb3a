"""Runs of the GLUE command as its tests plan them, carry them out and read them."""

import dataclasses
import functools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from modules.benchmarks.base import Benchmark
from modules.benchmarks.glue import GLUE
from modules.experiments.flags import make_parser
from modules.experiments.plan import make_plan
from modules.experiments.wishes import Wishes
from modules.launch import worker
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore
from modules.training import run as training
from tests.support.forked import Forked
from tests.support.two_processes import as_two_ranks
from variants.registry import resolve

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
parser = functools.cache(make_parser)  # to make one takes longer than to plan the runs


def planned(command: list[str], variant: str = "lora", benchmark: Benchmark = GLUE, **changes) -> list[RunConfig]:
    """The runs that the command line would do."""
    cls = resolve(variant)
    wishes = Wishes.of(parser(cls, benchmark).parse_args(command), benchmark, cls)
    wishes.variant = variant
    plan = make_plan(dataclasses.replace(wishes, **changes), cls)
    for run in plan.runs:
        run.write()
    return plan.runs


def carry_out(*runs: RunConfig) -> None:
    """Carry the runs out in this process: quicker, where a process of their own is not the point."""
    assert worker.main([runs[0].results_dir, *(run.id for run in runs)]) == 0


def start(*runs: RunConfig, **options) -> Forked:
    """A worker process that carries the runs out, as the command starts it; options of `Forked`."""
    words = [runs[0].results_dir, *(run.id for run in runs)]
    return Forked(worker.main, words, environment=ENVIRONMENT, **options)


def forked_workers(ids: list[str], folder: str, *_, **__) -> int:
    """In place of `pool.run_workers`: one process for all runs, which need not import what this one has."""
    return Forked(worker.main, [folder, *ids], environment=ENVIRONMENT).wait()


def start_and_kill(run: RunConfig, ready: Callable[[], bool]) -> None:
    """Carry the run out in a process, and kill it as soon as ``ready()``."""
    process = start(run)
    deadline = time.monotonic() + 120
    while not ready() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert not ResultStore(run.results_dir).done(run.id), "it was done before it could be killed"


def in_two(*runs: RunConfig) -> None:
    """Carry the runs out in two processes, one after the other: quicker than two processes for each of them."""
    as_two_ranks(Path(runs[0].results_dir) / "ranks.log", _each, runs, environment=ENVIRONMENT)


def _each(runs: tuple[RunConfig, ...]) -> None:
    for run in runs:
        training.run(run)


def adapter(run: RunConfig, which: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run.folder / which / "adapter.safetensors")
