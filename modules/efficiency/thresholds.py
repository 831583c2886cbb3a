"""The project's thresholds: ratios that a measurement must reach, with whether it does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from modules.efficiency.scaling import thresholds as scaling
from modules.efficiency.steps.grid import DENSE, STACKED, TOGETHER
from modules.efficiency.steps.measure import quartiles

Spread = tuple[float, float, float]
Row = dict[str, Any]
"""A threshold as it is kept in result files.

``bar`` is its name, ``what`` the two implementations that were divided, ``measured`` the ratio (q1, median, q3),
``limit`` the threshold, ``strict`` whether the ratio must be below it, ``least`` (where it is there) that it must reach
it instead, ``met`` whether the median does.
"""
PEFTS = ("peft", "peft-bf16")
"""PEFT's two precisions."""
PEFTS_WITH_LIGER = ("peft-liger", "peft-liger-bf16")
DECODERS = {"llama-1b": 0.75, "llama-7b": 0.8, "llama-7b-4": 0.85}
"""Scenarios of decoders, and what share of PEFT's step with Liger a LoRA step may take."""
UNETS = ("unet",)
"""Scenarios of UNets: no step may take longer than PEFT's eager one, as diffusers' training script takes it."""
QLORA = {"qlora-1b": {"peft": 0.5, "dense": 1.35}, "qlora-7b": {"peft": 0.8, "dense": None}}
"""Scenarios of bases in few bits: what share of PEFT's step, and of ours on the dense base, a LoRA step may take."""
STATE = 16
"""Bytes of a trained parameter: itself, its gradient and AdamW's two moments in fp32."""
FASTEST = ("trained", "graphs", "compiled+graphs", "compiled", "eager")
"""Modes, the fastest first."""


def rows(result: dict[str, Any]) -> list[Row]:
    """Every threshold that a result file has measurements for."""
    scenarios = result.get("scenarios", {})
    found: list[Row] = []
    for key in ("base", "e2e", "large", "compiled"):
        if key in scenarios:
            found += {"base": _base, "e2e": _e2e, "large": _memory, "compiled": _compiled}[key](scenarios[key])
    for key in QLORA:
        if key in scenarios:
            found += _few_bits(scenarios[key], **QLORA[key])
    for key in UNETS:
        if s := scenarios.get(key):
            pair = measured_name(s, "ours", "lora", FASTEST), best_peft(s, "lora", "eager")
            found += _row(f"LoRA step, {s['title']}", s, *pair, 1.0)
    for key, share in DECODERS.items():
        if key in scenarios:
            found += _decoder(scenarios[key], share)
    found += [row for job in result.get("jobs", []) for row in _job(job)]
    return found + scaling.rows(result.get("scaling", {}))


def ratio(scenario: dict[str, Any], over: str, under: str) -> Spread | None:
    """Quartiles over the rounds of the ratio of two implementations' step times; None where one was not measured."""
    a, b = (scenario["ways"].get(name, {}).get("rounds_ms") for name in (over, under))
    return quartiles([x / y for x, y in zip(a, b, strict=True)]) if a and b else None


def measured_name(scenario: dict[str, Any], library: str, method: str, modes: tuple[str, ...]) -> str | None:
    """Name of an implementation in the first of these modes that was measured; None where none was."""
    names = (" ".join(part for part in (library, method, mode) if part) for mode in modes)
    return next((n for n in names if "step_ms" in scenario["ways"].get(n, {})), None)


def best_peft(scenario: dict[str, Any], method: str, mode: str) -> str | None:
    """The faster of PEFT's two precisions in a mode."""
    names = [n for library in PEFTS if (n := measured_name(scenario, library, method, (mode,)))]
    return min(names, key=lambda name: scenario["ways"][name]["step_ms"], default=None)


def _row(bar: str, scenario: dict, over: str | None, under: str | None, limit: float, strict: bool = False) -> Iterator:
    spread = ratio(scenario, over, under) if over and under else None
    if spread:
        met = spread[1] < limit if strict else spread[1] <= limit
        what = f"{over} / {under}"
        yield {"bar": bar, "what": what, "measured": spread, "limit": limit, "strict": strict, "met": met}


def _base(s: dict[str, Any]) -> list[Row]:
    title, found = s["title"], []
    mine = {m: measured_name(s, "ours", m, FASTEST) for m in ("lora", "dora", "vera", "adalora")}
    limit = measured_name(s, "limit", "", ("graphs",))
    found += _row(f"LoRA step, {title}", s, mine["lora"], limit, 1.25)
    found += _row(f"LoRA step, {title}", s, mine["lora"], best_peft(s, "lora", "eager"), 0.2)
    found += _row(f"LoRA step, {title}", s, mine["lora"], best_peft(s, "lora", "graphs"), 0.9)
    for method, name, times in (("dora", "DoRA step", 1.35), ("vera", "VeRA step", 1.5)):
        found += _row(name, s, mine[method], mine["lora"], times)
        for mode in ("eager", "graphs"):
            found += _row(
                f"{name}, {mode}",
                s,
                measured_name(s, "ours", method, (mode,)),
                best_peft(s, method, mode),
                1.0,
                strict=True,
            )
    together = measured_name(s, TOGETHER, "lora", FASTEST)
    found += _row(f"{STACKED} stacked seeds, whole step", s, together, mine["lora"], 3.0)
    found += _row("AdaLoRA step with allocation", s, mine["adalora"], mine["lora"], 1.3)
    found += _row("AdaLoRA step with allocation", s, mine["adalora"], best_peft(s, "adalora", "eager"), 0.15)
    return found


def _compiled(s: dict[str, Any]) -> list[Row]:
    found: list[Row] = []
    for mode in ("compiled", "compiled+graphs"):
        for method in ("lora", "dora", "vera"):
            pair = measured_name(s, "ours", method, (mode,)), best_peft(s, method, mode)
            found += _row(f"{method}, {mode}", s, *pair, 1.0, strict=True)
    return found


def _e2e(s: dict[str, Any]) -> list[Row]:
    mine = measured_name(s, "ours", "lora", FASTEST)
    found = list(_row(f"LoRA step, {s['title']}", s, mine, measured_name(s, "limit", "", ("graphs",)), 1.25))
    return found + list(_row(f"LoRA step, {s['title']}", s, mine, best_peft(s, "lora", "eager"), 0.5))


def _memory(s: dict[str, Any]) -> list[Row]:
    found: list[Row] = []
    for mode, limit_mode in (("trained", "graphs"), ("graphs", "graphs"), ("eager", "eager")):
        mine, limit = measured_name(s, "ours", "lora", (mode,)), measured_name(s, "limit", "", (limit_mode,))
        theirs = [n for library in PEFTS if (n := measured_name(s, library, "lora", (limit_mode,)))]
        theirs = [min(theirs, key=lambda name: s["ways"][name].get("peak_mb", 0))] if theirs else []
        for other, bar, strict in ((limit, 1.05, False), *((name, 1.0, True) for name in theirs)):
            if mine and other and s["ways"][mine].get("peak_mb"):
                value = s["ways"][mine]["peak_mb"] / s["ways"][other]["peak_mb"]
                row = {"bar": f"LoRA peak memory, {s['title']}", "what": f"{mine} / {other}", "limit": bar}
                met = value < bar if strict else value <= bar
                found.append(row | {"measured": (value,) * 3, "strict": strict, "met": met})
    return found


def _decoder(s: dict[str, Any], share: float) -> list[Row]:
    title = s["title"]
    limit = _least(s, "step_ms", [measured_name(s, "limit", "", (mode,)) for mode in ("graphs", "eager")])
    mine = {method: measured_name(s, "ours", method, FASTEST) for method in ("lora", "dora")}
    theirs = {m: [measured_name(s, library, m, ("eager",)) for library in PEFTS_WITH_LIGER] for m in mine}
    fastest = {m: _least(s, "step_ms", names) for m, names in theirs.items()}
    found = list(_row(f"LoRA step, {title}", s, mine["lora"], limit, 1.25))
    found += _row(f"LoRA step, {title}", s, mine["lora"], fastest["lora"], share)
    found += _row(f"DoRA step, {title}", s, mine["dora"], mine["lora"], 1.3)
    found += _row(f"DoRA step, {title}", s, mine["dora"], fastest["dora"], 0.6)
    for method, name in (("lora", "LoRA"), ("dora", "DoRA")):
        own, ways = mine[method], s["ways"]
        least = _least(s, "peak_mb", theirs[method])
        if own and least and limit:
            allowed = 1.05 * ways[limit]["peak_mb"] + STATE * ways[own]["trained"] / 2**20
            for other, reference in ((least, ways[least]["peak_mb"]), (f"(1.05 x {limit} + adapter state)", allowed)):
                value = ways[own]["peak_mb"] / reference
                row = {"bar": f"{name} peak memory, {title}", "what": f"{own} / {other}", "limit": 1.0}
                found.append(row | {"measured": (value,) * 3, "strict": False, "met": value <= 1.0})
    return found


def _few_bits(s: dict[str, Any], peft: float, dense: float | None) -> list[Row]:
    """Of a base in few bits: PEFT on bitsandbytes in the faster of its precisions, eager as it is used."""
    title, found = s["title"], []
    mine, ours = measured_name(s, "ours", "lora", FASTEST), measured_name(s, DENSE, "lora", FASTEST)
    theirs = best_peft(s, "lora", "eager")
    found += _row(f"LoRA step, {title}", s, mine, theirs, peft)
    if dense:
        found += _row(f"LoRA step, {title}", s, mine, ours, dense)
    elif mine and theirs and s["ways"][mine].get("peak_mb"):
        least = _least(s, "peak_mb", [measured_name(s, library, "lora", ("eager",)) for library in PEFTS])
        value = s["ways"][mine]["peak_mb"] / s["ways"][least]["peak_mb"]
        row = {"bar": f"LoRA peak memory, {title}", "what": f"{mine} / {least}", "limit": 1.0}
        found.append(row | {"measured": (value,) * 3, "strict": False, "met": value <= 1.0})
    return found


def _least(s: dict[str, Any], figure: str, names: list[str | None]) -> str | None:
    """Of implementations that were measured, the one with the least of a figure."""
    return min((name for name in names if name), key=lambda name: s["ways"][name][figure], default=None)


def _job(job: dict[str, Any]) -> Iterator[Row]:
    a, b = (job["seconds"].get(name) for name in job["compared"])
    if job["limit"] and a and b and len(a) == len(b):
        spread = quartiles([x / y for x, y in zip(a, b, strict=True)])
        row = {"bar": job["title"], "what": " / ".join(job["compared"]), "measured": spread, "limit": job["limit"]}
        yield row | {"strict": False, "met": spread[1] <= job["limit"]}
