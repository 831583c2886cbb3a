"""What more GPUs would give, computed from what was measured: a model, with its assumptions, and no measurement.

A step on N GPUs takes

    compute(rows of each) + wait(N) + all-reduce(N) + rest

- *compute* is a line through one GPU's step times with all rows and with an eighth of them.
- *wait* is for the rank with the most tokens: rows are drawn from the published lengths (`steps/lengths.json`) and
  dealt to N ranks as in training; how far the largest share exceeds the mean one is the part that is added of what
  compute spends for rows.
- *all-reduce* is latency + bytes / bandwidth, fitted to measured times on M GPUs of a host. On N of the same host the
  latency grows as log2 N (a tree), and bytes as 2 (N - 1) / N (what each GPU sends). Between hosts there is a second
  all-reduce of one GPU of each, over one network card: `Network`.
- *rest* is what these do not explain of the step measured on the most GPUs (0 if nothing), the same for every N > 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from modules.data.module import MULTIPLE
from modules.data.padding import EDGES
from modules.data.samplers import balanced
from modules.efficiency.scaling.workloads import Record, Workload, run_name
from modules.efficiency.steps.batches import table

PLANNED = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of GPUs; from one to the next they double."""
PAYS = 1.1
"""Doubling pays where a step of strong scaling becomes shorter by this factor at least."""
SMALL = 8
"""One GPU is also measured with this part of the rows."""


@dataclass(frozen=True)
class Network:
    """What is assumed of hosts and of the network between them.

    Attributes:
        gbps: Gbit/s of one card (400: InfiniBand NDR, one port).
        us: latency of a message between two hosts, in microseconds.
        gpus: of one host.
    """

    gbps: float = 400.0
    us: float = 5.0
    gpus: int = 8


@dataclass(frozen=True)
class AllReduce:
    """Time of an all-reduce on ``gpus`` GPUs of one host: ``latency_ms`` + bytes x ``ms_per_byte``."""

    gpus: int
    latency_ms: float
    ms_per_byte: float

    @classmethod
    def fit(cls, gpus: int, sizes: Sequence[float], times: Sequence[float]) -> AllReduce:
        """The line through measured times (ms) of buffers of some sizes (bytes); each weighs by 1 / time."""
        x, y = np.asarray(sizes, float), np.asarray(times, float)
        slope, constant = np.polyfit(x, y, 1, w=1 / y) if len(x) > 1 else (0.0, y[0])
        if constant < 0:
            slope, constant = float((y / x).mean()), 0.0
        return cls(gpus, float(constant), max(0.0, float(slope)))

    @property
    def gbytes_per_s(self) -> float:
        """Bus bandwidth, as NCCL's tests count it: bytes that each GPU sends."""
        share = 2 * (self.gpus - 1) / self.gpus
        return share / self.ms_per_byte / 1e6 if self.ms_per_byte else math.inf

    def ms(self, size: float, gpus: int, network: Network) -> float:
        """Milliseconds for ``size`` bytes on any number of GPUs."""
        if gpus == 1:
            return 0.0
        inside, hosts = min(gpus, network.gpus), -(-gpus // network.gpus)
        tree = math.log2(inside) / math.log2(self.gpus)
        ring = ((inside - 1) / inside) / ((self.gpus - 1) / self.gpus)
        within = self.latency_ms * tree + size * self.ms_per_byte * ring
        if hosts == 1:
            return within
        latency = 2 * math.ceil(math.log2(hosts)) * network.us / 1000
        return within + latency + 2 * (hosts - 1) / hosts * size * 8 / (network.gbps * 1e6)


@dataclass(frozen=True)
class Step:
    """A step on ``gpus`` GPUs with ``rows`` rows each: its parts in ms, and what was ``measured`` (None: nothing)."""

    gpus: int
    rows: int
    compute: float
    wait: float
    all_reduce: float
    rest: float
    measured: float | None

    @property
    def ms(self) -> float:
        """The whole step."""
        return self.compute + self.wait + self.all_reduce + self.rest


@dataclass(frozen=True)
class Plan:
    """Steps of weak and of strong scaling by number of GPUs. Strong scaling ends where a GPU would have no row."""

    weak: dict[int, Step]
    strong: dict[int, Step]

    def stops(self) -> int | None:
        """The number of GPUs whose doubling shortens a step of strong scaling by less than `PAYS`; None: all pay."""
        found = (
            n for n, step in self.strong.items() if 2 * n in self.strong and step.ms < PAYS * self.strong[2 * n].ms
        )
        return next(found, None)


def median_ms(record: Record, gpus: int, rows: int) -> float | None:
    """The step time of a run over its rounds; None where it was not measured."""
    found = [ms for ms in record["runs"].get(run_name(gpus, rows), {}).get("rounds_ms", ()) if ms is not None]
    return float(np.median(found)) if found else None


def plan(work: Workload, record: Record, all_reduce: AllReduce | None, network: Network) -> Plan | None:
    """Weak and strong scaling of a workload; None where one GPU was not measured.

    Args:
        all_reduce: None leaves it and the rest out: nothing was measured on several GPUs.
    """
    full, small = median_ms(record, 1, work.rows), median_ms(record, 1, work.rows // SMALL)
    if full is None:
        return None
    each = (full - small) / (work.rows - work.rows // SMALL) if small is not None else full / work.rows
    each = max(0.0, each)
    most = all_reduce.gpus if all_reduce else 1

    def step(gpus: int, rows: int, rest: float) -> Step:
        compute = full - each * (work.rows - rows)
        wait = each * rows * imbalance(work, gpus, rows)
        sent = all_reduce.ms(record["bytes"], gpus, network) if all_reduce else 0.0
        return Step(gpus, rows, compute, wait, sent, rest if gpus > 1 else 0.0, median_ms(record, gpus, rows))

    def steps(rows: dict[int, int]) -> dict[int, Step]:
        known = median_ms(record, most, rows[most]) if most > 1 and most in rows else None
        rest = max(0.0, known - step(most, rows[most], 0.0).ms) if known is not None else 0.0
        return {gpus: step(gpus, each_rows, rest) for gpus, each_rows in rows.items()}

    numbers = sorted({*PLANNED, most})
    strong = {n: work.rows // n for n in numbers if work.rows % n == 0}
    return Plan(steps(dict.fromkeys(numbers, work.rows)), steps(strong) if small is not None else {})


@cache
def imbalance(work: Workload, gpus: int, rows: int, steps: int = 200) -> float:
    """By what part the most loaded of ``gpus`` ranks has more to compute than the mean one, on average over steps.

    Rows are dealt as in training. Packed batches are filled up to a multiple of tokens, padded ones are as wide as the
    bucket of their longest row.
    """
    if gpus == 1:
        return 0.0
    drawn, _ = table(work.benchmark)[work.task].draw(steps * gpus * rows, np.random.default_rng(0))
    everything = np.arange(gpus * rows)
    batches = [batch[balanced(everything, batch, gpus)] for batch in drawn.reshape(steps, -1)]
    lengths = np.stack(batches).reshape(steps, rows, gpus)
    if work.packed:
        load = -(-lengths.sum(1) // MULTIPLE) * MULTIPLE
    else:
        load = np.asarray(EDGES)[np.searchsorted(EDGES, lengths.max(1))]
    return float(load.max(1).mean() / load.mean() - 1)


def fitted(scaling: dict[str, Any]) -> AllReduce | None:
    """The all-reduce on the most GPUs that it was measured on."""
    known = {int(n): found for n, found in scaling.get("all_reduce", {}).items() if found.get("ms")}
    return AllReduce.fit(max(known), known[max(known)]["bytes"], known[max(known)]["ms"]) if known else None
