"""One scenario: build every way, take them in turn, and note time, memory, launches and parameters of each."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from modules.acceleration.cuda_graphs import cause
from modules.efficiency import implementations as W
from modules.efficiency.shapes import Batch, build, drawn_batches, fixed_batches, shape_of, sizes, tokens_of
from modules.efficiency.stepper import Stepper, compile_core
from modules.runs.environment import environment
from variants.sites.architectures import ARCHITECTURES

LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaLaunchCooperativeKernel")
"""Beginnings of the names of CUDA calls that a step makes to start work; a whole graph is one."""


def say(line: str) -> None:
    """Progress, at once also where the output is no terminal."""
    print(line, flush=True)


@dataclass(frozen=True)
class Scenario:
    """A backbone on batches of one kind.

    Attributes:
        key: name on the command line; shape: a key of `shapes.SHAPES`, or embedded-roberta, embedded-gpt2.
        rows, width: of a batch; a width of 0 draws real lengths from the table ``lengths``.
        at_once: all ways are kept on the device and take turns; else one after the other, where memory is short.
        stacked: seeds together are measured too.
        options: hyperparameters that differ from `ways.METHODS`.
    """

    key: str
    shape: str
    rows: int
    width: int = 0
    lengths: str = ""
    methods: tuple[str, ...] = ("lora", "dora", "vera", "adalora")
    modes: tuple[str, ...] = ("eager", "graphs", "trained")
    at_once: bool = True
    stacked: bool = False
    options: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        size = f"{self.rows} x {self.width} tokens" if self.width else f"batch {self.rows}, lengths of {self.lengths}"
        return f"{self.shape}, {size}"

    @property
    def packed(self) -> bool:
        """Whether the backbone can do without padding (`modules.acceleration.packed_encoder`)."""
        return ARCHITECTURES[sizes(self.shape)["model_type"]].packs

    def batches(self, config: dict[str, Any], device: torch.device) -> list[Batch]:
        if self.width:
            return fixed_batches(config, self.rows, self.width, device)
        return drawn_batches(config, self.rows, self.lengths, device, count=16 if device.type == "cuda" else 8)


_LONE = {"methods": ("lora",)}
_SMALL = {"vera": {"r": 256}}
SCENARIOS = {
    s.key: s
    for s in (
        Scenario("base", "roberta-base", 32, 48, stacked=True),
        Scenario("glue", "roberta-base", 32, lengths="glue", **_LONE),
        Scenario("e2e", "gpt2-medium", 8, lengths="e2e", **_LONE),
        Scenario("large", "roberta-large", 64, 256, at_once=False, **_LONE),
        Scenario("compiled", "roberta-base", 32, 48, ("lora", "dora", "vera"), modes=("compiled", "compiled+graphs")),
        Scenario("wide", "roberta-base", 64, 128),
        Scenario("small", "embedded-roberta", 32, 24, modes=("eager",), options=_SMALL),
        Scenario("small-glue", "embedded-roberta", 32, 0, "glue", ("lora",), ("eager",)),
        Scenario("host", "roberta-thin", 2, 4, modes=("eager",), options={"vera": {"r": 16}}),
        Scenario("small-e2e", "embedded-gpt2", 8, 0, "e2e", ("lora", "dora", "vera"), ("eager",), options=_SMALL),
    )
}
DEFAULT = {"cuda": ("glue", "e2e", "large", "base"), "cpu": ("small", "small-glue", "small-e2e")}


@dataclass
class Running:
    """A way that has been built: its stepper and what is known of it."""

    way: W.Way
    stepper: Stepper
    record: dict[str, Any]


def measure(
    scenario: Scenario,
    device: torch.device,
    chosen: Iterable[W.Way],
    *,
    bf16: bool,
    rounds: int,
    passes: int,
    keep: Callable[[dict[str, Any]], None],
    launches: bool,
) -> None:
    """Hand the record of a scenario to ``keep``: settings, and for each way its figures or why it failed.

    Args:
        rounds: in each, every way makes ``passes`` passes over the scenario's batches.
        launches: count them with torch's profiler afterwards, and ``keep`` the record again.
    """
    config = sizes(scenario.shape)
    master = build(config, device)
    batches = scenario.batches(config, device)
    options = {m: W.METHODS[m] | scenario.options.get(m, {}) for m in scenario.methods}
    records: dict[str, dict[str, Any]] = {}
    alive: list[Running] = []
    compiled: dict[tuple[str, str], W.Trainee] = {}
    say(f"{scenario.title}: {'bf16' if bf16 else 'fp32'}, {rounds} rounds")
    for way in chosen:
        began = time.perf_counter()
        try:
            running = _built(way, master, options, bf16, batches, device, compiled)
        except Exception as error:  # one way that cannot be is a row that says so
            records[way.name] = _about(way) | {"failed": cause(error)}
            say(f"  {way.name:28} failed: {cause(error)}")
            continue
        records[way.name] = running.record
        say(f"  {way.name:28} ready after {time.perf_counter() - began:5.1f} s")
        if scenario.at_once:
            alive.append(running)
        else:
            _time([running], batches, rounds, passes, device)
            del running
            free(device)
    _time(alive, batches, rounds, passes, device)

    def result() -> dict[str, Any]:
        return {
            "title": scenario.title,
            "shape": scenario.shape,
            "rows": scenario.rows,
            "shapes": sorted({tuple(b["input_ids"].shape) for b in batches}),
            "batches": len(batches),
            "tokens": tokens_of(batches),
            "precision": "bf16" if bf16 else "fp32",
            "rounds": rounds,
            "passes": passes,
            "in_turn": scenario.at_once,
            "options": options,
            "environment": environment(str(device)),
            "ways": {name: _summary(record, tokens_of(batches), len(batches)) for name, record in records.items()},
        }

    keep(result())
    if launches and alive and scenario.width:  # last: a profiler that has been on may cost the others time
        say("  counting launches")
        for one in alive:
            one.record |= count_launches(one.stepper, batches[0])
        keep(result())
    del alive, compiled
    free(device)


def _built(
    way: W.Way, master, options, bf16: bool, batches: list[Batch], device: torch.device, compiled: dict
) -> Running:
    """A way with every shape of batch seen, so that nothing is compiled, captured or allocated later.

    Args:
        compiled: models that have been compiled, by library and method; they serve both compiled modes.
    """
    free(device)
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    trainee = compiled.get((way.library, way.method)) or W.make(way, master, options, bf16)
    if way.mode.startswith("compiled") and (way.library, way.method) not in compiled:
        compile_core(trainee)
        trainee.kind = ""  # padded, as in runs with torch.compile: it wants few shapes
        compiled[way.library, way.method] = trainee
    stepper = Stepper(trainee, way.mode)
    record = _about(way) | {"trained": sum(p.numel() for p in trainee.parameters)}
    if device.type == "cuda":
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
    for batch in {shape_of(b): b for b in batches}.values():
        for _ in range(3):
            stepper(batch)
    if device.type == "cuda":
        torch.cuda.synchronize()
        if way.mode != "compiled+graphs":  # which shares its model with another way
            record["peak_mb"] = round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    return Running(way, stepper, record)


def _time(running: list[Running], batches: list[Batch], rounds: int, passes: int, device: torch.device) -> None:
    """Add ``rounds_ms`` to the records: milliseconds per step in each round."""

    def synchronise() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for one in running:
        one.record["rounds_ms"] = []
    for number in range(rounds):
        order = running if number % 2 == 0 else running[::-1]  # nobody always follows the same neighbour
        for one in order:
            one.stepper(batches[-1])  # what the way before left in caches is not this one's doing
            synchronise()
            start = time.perf_counter()
            for _ in range(passes):
                for batch in batches:
                    one.stepper(batch)
            synchronise()
            elapsed = time.perf_counter() - start
            one.record["rounds_ms"].append(round(1000 * elapsed / (passes * len(batches)), 4))


def count_launches(stepper: Stepper, batch: Batch) -> dict[str, int]:
    """``launches``: calls that the host makes in one step; ``kernels``: what the GPU runs."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    os.environ["TEARDOWN_CUPTI"] = "0"  # set up a second time, it crashes where CUDA graphs have been captured
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        stepper(batch)
        torch.cuda.synchronize()
    host = kernels = 0
    for event in profiler.events():
        if event.device_type != DeviceType.CUDA:
            host += event.name.startswith(LAUNCHES)
        elif not event.name.startswith(("Memcpy", "Memset")) and not getattr(event, "is_user_annotation", False):
            kernels += 1
    return {"launches": host, "kernels": kernels}


def _about(way: W.Way) -> dict[str, Any]:
    return {"library": way.library, "method": way.method, "mode": way.mode}


def _summary(record: dict[str, Any], tokens: int, batches: int) -> dict[str, Any]:
    if "rounds_ms" not in record:
        return record
    q1, median, q3 = quartiles(record["rounds_ms"])
    return record | {
        "step_ms": round(median, 4),
        "step_ms_quartiles": [round(q1, 4), round(q3, 4)],
        "tokens_per_s": round(1000 * tokens / batches / median),
    }


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """First quartile, median and third."""
    import numpy as np

    return tuple(float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))


def free(device: torch.device) -> None:
    """Give back memory that nothing refers to."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
