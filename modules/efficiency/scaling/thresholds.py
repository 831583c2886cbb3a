"""The ratios that scaling must reach on two GPUs, with whether it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from modules.efficiency.scaling.workloads import Record, run_name, steady, workload
from modules.efficiency.steps.measure import quartiles

WEAK = {"roberta-base": 1.85, "roberta-large": 1.92, "gpt2-medium": 1.85}
"""Throughput of two GPUs against one, rows of each GPU kept: at least."""
STRONG = {"roberta-base": 1.0, "roberta-large": 0.7}
"""A step of two GPUs against one, all rows kept: at most."""
PEFT = 0.3
"""Our step against PEFT's best on as many GPUs: at most."""
SHARDED = 0.6
"""Peak memory of each of two GPUs that share a model, against one's: at most."""


def rows(scaling: dict[str, Any]) -> list[dict[str, Any]]:
    """Every threshold that there are measurements for, as `modules.efficiency.thresholds.Row`s."""
    found: list[dict[str, Any]] = []
    if scaling.get("device") == "cuda":  # processes that share a CPU say nothing of scaling
        for shape, record in scaling.get("workloads", {}).items():
            found += _workload(shape, record)
    one, two = (scaling.get("sharded", {}).get(gpus, {}).get("peak_mb") for gpus in "12")
    if one and two:
        found.append(_row("LLaMA 7B in shards, peak memory of each GPU", "2 GPUs / 1", (two / one,) * 3, SHARDED))
    return found


def ratio(record: Record, over: str, under: str, times: float = 1.0) -> tuple[float, float, float] | None:
    """Quartiles over the rounds of ``times`` a run's step time over another's; None where one was not measured."""
    a, b = (record["runs"].get(name, {}).get("rounds_ms", []) for name in (over, under))
    found = [times * x / y for x, y in zip(a, b, strict=False) if x is not None and y is not None]
    return quartiles(found) if found else None


def best_peft(record: Record) -> str | None:
    """PEFT's fastest way."""
    known = {way: steady(found["epoch_ms"]) for way, found in record.get("peft", {}).items() if "epoch_ms" in found}
    return min(known, key=known.__getitem__, default=None)


def _workload(shape: str, record: Record) -> Iterator[dict[str, Any]]:
    work = workload(shape)
    one, two, half = run_name(1, work.rows), run_name(2, work.rows), run_name(2, work.rows // 2)
    if shape in WEAK and (spread := ratio(record, one, two, 2)):
        yield _row(f"throughput, {work.title}", "2 GPUs / 1", spread, WEAK[shape], least=True)
    if shape in STRONG and (spread := ratio(record, half, one)):
        yield _row(f"step, {shape}, {work.rows} rows in all", "2 GPUs / 1", spread, STRONG[shape])
    way = best_peft(record)
    if way and record["peft"][way]["gpus"] == 2 and (mine := _known(record, two)):
        theirs = steady(record["peft"][way]["epoch_ms"])
        spread = quartiles([ms / theirs for ms in mine])
        yield _row(f"step on 2 GPUs, {work.title}", f"ours / PEFT {way}", spread, PEFT)


def _known(record: Record, name: str) -> list[float]:
    return [ms for ms in record["runs"].get(name, {}).get("rounds_ms", []) if ms is not None]


def _row(bar: str, what: str, spread: tuple[float, float, float], limit: float, least: bool = False) -> dict[str, Any]:
    meets: Callable[[float], bool] = limit.__le__ if least else limit.__ge__
    row = {"bar": bar, "what": what, "measured": spread, "limit": limit, "strict": False, "met": meets(spread[1])}
    return row | ({"least": True} if least else {})
