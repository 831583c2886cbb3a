"""Measurement of a scenario: time, memory, launches and parameters of every implementation, which take turns."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from modules.acceleration.cuda_graphs import cause
from modules.efficiency.steps.backbones import Batch, build, sizes
from modules.efficiency.steps.batches import input_shapes, shape_of, tokens_of
from modules.efficiency.steps.grid import METHODS, Implementation
from modules.efficiency.steps.implementations import build_trainee
from modules.efficiency.steps.launches import count_launches
from modules.efficiency.steps.scenarios import Scenario
from modules.efficiency.steps.stepper import Stepper, compile_core
from modules.efficiency.steps.trainee import Trainee
from modules.runs.environment import environment


def say(line: str) -> None:
    """Print a line of progress without delay, also into a file."""
    print(line, flush=True)


@dataclass
class Running:
    """An implementation that has been built: its stepper and its record."""

    implementation: Implementation
    stepper: Stepper
    record: dict[str, Any]


def measure(
    scenario: Scenario,
    device: torch.device,
    chosen: Iterable[Implementation],
    *,
    bf16: bool,
    rounds: int,
    passes: int,
    keep: Callable[[dict[str, Any]], None],
    launches: bool,
) -> None:
    """Measure a scenario and give its record to ``keep``: settings and, for each implementation, its figures or the
    reason of its failure.

    Args:
        rounds: in each, every implementation makes ``passes`` passes over the scenario's batches.
        launches: count them with torch's profiler afterwards, and ``keep`` the record again.
    """
    config = sizes(scenario.shape)
    master = build(config, device, dtype=torch.bfloat16 if scenario.decoder and bf16 else torch.float32)
    batches = scenario.batches(config, device)
    options = {m: METHODS.get(m, {}) | scenario.options.get(m, {}) for m in scenario.methods}
    records: dict[str, dict[str, Any]] = {}
    alive: list[Running] = []
    compiled: dict[tuple[str, str], Trainee] = {}
    say(f"{scenario.title}: {'bf16' if bf16 else 'fp32'}, {rounds} rounds")
    for implementation in chosen:
        began = time.perf_counter()
        try:
            running = _built(implementation, scenario, master, options, bf16, batches, device, compiled)
        except Exception as error:  # a failure is a row of the table
            records[implementation.name] = _about(implementation) | {"failed": cause(error)}
            say(f"  {implementation.name:28} failed: {cause(error)}")
            continue
        records[implementation.name] = running.record
        say(f"  {implementation.name:28} ready after {time.perf_counter() - began:5.1f} s")
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
            "shapes": input_shapes(batches),
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
    implementation: Implementation,
    scenario: Scenario,
    master: nn.Module,
    options: dict[str, dict[str, Any]],
    bf16: bool,
    batches: list[Batch],
    device: torch.device,
    compiled: dict[tuple[str, str], Trainee],
) -> Running:
    """An implementation that has seen every shape of batch, so that it compiles, captures and allocates nothing later.

    Args:
        compiled: compiled models by library and method, which serve both compiled modes.
    """
    free(device)
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    key, mode = (implementation.library, implementation.method), implementation.mode
    trainee = compiled.get(key) or build_trainee(
        implementation,
        master,
        options,
        bf16,
        scenario.target,
        scenario.checkpointing,
        scenario.quantise,
        scenario.budget,
    )
    if mode.startswith("compiled") and key not in compiled:
        compile_core(trainee)
        trainee.kind = ""  # padded, as in runs with torch.compile, to have few shapes
        compiled[key] = trainee
    stepper = Stepper(trainee, mode)
    record = _about(implementation) | {"trained": sum(p.numel() for p in trainee.parameters)}
    if device.type == "cuda":
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
    for batch in {shape_of(b): b for b in batches}.values():
        for _ in range(3):
            stepper(batch)
    if device.type == "cuda":
        torch.cuda.synchronize()
        if mode != "compiled+graphs":  # its model is shared with "compiled"
            record["peak_mb"] = round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    return Running(implementation, stepper, record)


def _time(running: list[Running], batches: list[Batch], rounds: int, passes: int, device: torch.device) -> None:
    """Add ``rounds_ms`` to the records: milliseconds per step in each round."""

    def synchronise() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for one in running:
        one.record["rounds_ms"] = []
    for number in range(rounds):
        order = running if number % 2 == 0 else running[::-1]  # none always follows the same neighbour
        for one in order:
            one.stepper(batches[-1])  # the caches hold data of the implementation before
            synchronise()
            start = time.perf_counter()
            for _ in range(passes):
                for batch in batches:
                    one.stepper(batch)
            synchronise()
            elapsed = time.perf_counter() - start
            one.record["rounds_ms"].append(round(1000 * elapsed / (passes * len(batches)), 4))


def _about(implementation: Implementation) -> dict[str, Any]:
    return asdict(implementation)


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
    """Free memory that is no longer referenced."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
