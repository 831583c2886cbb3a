"""A session of the efficiency benchmark: loss curves, scenarios or whole jobs, then the device's files."""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from modules.efficiency import report
from modules.efficiency.result_file import FORMAT, peft_version, read, save, slug
from modules.efficiency.scaling.measure import assume_network, measure_scaling
from modules.efficiency.steps import loss_curves, measure, peft_implementation
from modules.efficiency.steps.grid import MODES, Implementation, grid
from modules.efficiency.steps.scenarios import DEFAULT, GROUPS, SCENARIOS, Scenario
from modules.runs.environment import environment
from variants.atomic import write_atomic
from variants.errors import UserError
from variants.start import python

KEPT = {"scenarios": {}, "curves": [], "jobs": [], "remarks": []}
"""Parts of a result file that a session adds to, and their empty values."""


def run(options: argparse.Namespace) -> int:
    """Measure by the flags of `paper_repro/efficiency.py`, and write result file, table and plot.

    Returns:
        The exit code.

    Raises:
        UserError: a flag names nothing that there is, or a file is not what it should be.
    """
    device = torch.device(options.device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: there is no GPU that torch can use; take --device cpu")
    result = {"format": FORMAT, "environment": environment(str(device)), "peft": peft_version()}
    name = slug(result["environment"]["device"], device.type)
    if options.scaling:
        devices = torch.cuda.device_count() if device.type == "cuda" else 2
        name, result["environment"]["devices"] = f"{name}-x{devices}", devices
    path = options.out / f"{name}.json"
    path = Path(options.report_only or path)
    before = read(path)
    if options.report_only is not None:
        if not before:
            raise UserError(f"{path} does not exist: measure first, or name its folder with --out")
        if "scaling" in before:
            assume_network(options, before["scaling"])
        return write_report(path, before)
    result |= {key: before.get(key, empty) for key, empty in KEPT.items()}
    if options.scaling:
        scaling = result["scaling"] = before.get("scaling", {})
        measure_scaling(options, device, scaling, lambda: save(path, result))
    elif options.job or options.since:
        jobs = _jobs(options, device)
        result["jobs"] = [j for j in result["jobs"] if j["title"] not in {new["title"] for new in jobs}] + jobs
    else:
        _measure_steps(options, device, result, path)
    return write_report(path, result)


def _jobs(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    from modules.efficiency.jobs.whole_job import command_since, whole_jobs

    jobs = whole_jobs(options, device) if options.job else []
    return jobs + ([command_since(options.since, options.repeats)] if options.since else [])


def _measure_steps(options: argparse.Namespace, device: torch.device, result: dict[str, Any], path: Path) -> None:
    """Loss curves and scenarios into ``result``, saved after each."""
    import transformers

    transformers.logging.set_verbosity_error()
    on_gpu = device.type == "cuda"
    if on_gpu:
        result["remarks"] = ["No way uses cuDNN's attention, as no run does, but those of decoders without padding."]
    chosen = chosen_scenarios(options, device)
    if unknown := set(options.modes) - set(MODES):
        raise UserError(f"--modes: unknown {sorted(unknown)[0]!r}; the modes are {', '.join(MODES)}")
    has_peft = peft_implementation.available()
    if not has_peft:
        print("PEFT is not installed (pip install peft): its rows are left out, and no loss curves are compared")
    start = time.perf_counter()
    if options.curves != "off" and has_peft:
        _compare_losses(options, chosen, device, result, path)
    if options.curves == "only":
        return
    rounds = options.rounds or ((8 if options.quick else 20) if on_gpu else (3 if options.quick else 7))
    for scenario in chosen:
        bf16 = (options.precision or ("bf16" if on_gpu else "fp32")) == "bf16"
        passes = options.passes or (1 if scenario.lengths or not on_gpu else 2 if options.quick else 4)

        def keep(record: dict[str, Any], key: str = scenario.key) -> None:
            result["scenarios"][key] = record
            save(path, result)

        torch.backends.cuda.enable_cudnn_sdp(scenario.decoder)  # it compiles a kernel for every new shape
        chosen_ways = _implementations(options, scenario, bf16, has_peft)
        if scenario.decoder and len(chosen_ways) > 1:
            _in_own_processes(scenario, chosen_ways, options, {"rounds": rounds, "passes": passes}, keep)
            continue
        launches = on_gpu and not options.quick
        settings = {"bf16": bf16, "rounds": rounds, "passes": passes, "launches": launches}
        measure.measure(scenario, device, chosen_ways, keep=keep, **settings)
    print(f"measured in {time.perf_counter() - start:.0f} s")


def _in_own_processes(
    scenario: Scenario,
    ways: list[Implementation],
    options: argparse.Namespace,
    settings: dict[str, int],
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Measure each implementation of a large model in a process of its own: what it leaves behind, on failing above
    all, takes no memory from the next. ``keep`` gets the scenario's record after each.

    Args:
        settings: rounds and passes.
    """
    found, records = {}, {}
    measure.say(f"{scenario.title}: each in a process of its own")
    for way in ways:
        with tempfile.TemporaryDirectory() as scratch:
            words = ["--scenarios", scenario.key, "--ways", way.name, "--modes", way.mode, "--curves", "off"]
            given = {name: getattr(options, name) for name in ("precision", "device")} | settings | {"out": scratch}
            words += [str(word) for name, value in given.items() if value is not None for word in (f"--{name}", value)]
            words += ["--reference"] if options.reference else []
            # the tables of one implementation are no news
            done = subprocess.run(python("paper_repro.efficiency", *words), check=False, stdout=subprocess.DEVNULL)
            for file in Path(scratch).glob("*.json"):
                found = read(file)["scenarios"].get(scenario.key, found)
                records |= {name: record for name, record in found.get("ways", {}).items() if name == way.name}
        if way.name not in records:
            records[way.name] = asdict(way) | {"failed": f"its process ended with code {done.returncode}"}
        figures = records[way.name]
        told = f"{figures['step_ms']:.2f} ms" if "step_ms" in figures else f"failed: {figures['failed']}"
        measure.say(f"  {way.name:28} {told}")
        if found:
            keep(found | {"ways": dict(records)})


def _implementations(
    options: argparse.Namespace, scenario: Scenario, bf16: bool, has_peft: bool
) -> list[Implementation]:
    modes, methods = options.modes or scenario.modes, scenario.methods
    found = grid(
        methods,
        modes,
        options.ways,
        bf16,
        scenario.stacked,
        scenario.packed,
        options.reference,
        scenario.decoder,
        bool(scenario.quantise),
    )
    found = [one for one in found if not scenario.libraries or one.library in scenario.libraries]
    found = [one for one in found if has_peft or not one.library.startswith("peft")]
    if not found:
        raise UserError(f"--ways and --modes leave nothing of {scenario.key}; ways are named as in 'ours lora graphs'")
    return found


def _compare_losses(
    options: argparse.Namespace, chosen: list[Scenario], device: torch.device, result: dict[str, Any], path: Path
) -> None:
    """Loss curves of every backbone into ``result``; of several scenarios the one with the most methods is compared."""
    on_gpu = device.type == "cuda"
    modes = tuple(m for m in ("eager", "graphs", "trained") if on_gpu or m == "eager")
    precisions = ("fp32", "bf16") if on_gpu and not options.quick else ("fp32",)
    compared = [s for s in chosen if not s.libraries or "peft" in s.libraries]
    for scenario in {s.shape: s for s in sorted(compared, key=lambda s: len(s.methods))}.values():
        if scenario.shape in ("roberta-large", "llama-7b"):
            continue  # the same code as roberta-base and llama-1b
        print(f"loss curves, {scenario.shape}")
        for record in loss_curves.compare(scenario, device, modes, precisions=precisions):
            others = [c for c in result["curves"] if loss_curves.key_of(c) != loss_curves.key_of(record)]
            result["curves"] = [*others, record]
            save(path, result)


def chosen_scenarios(options: argparse.Namespace, device: torch.device) -> list[Scenario]:
    """The scenarios that --scenarios and --shape name; by default those of the device's type.

    Raises:
        UserError: one of them is unknown, or none is left.
    """
    named = [key for word in options.scenarios for key in GROUPS.get(word, (word,))]
    keys = named or (DEFAULT[device.type] if not options.shape else tuple(SCENARIOS))
    if unknown := [key for key in keys if key not in SCENARIOS]:
        raise UserError(f"--scenarios: unknown {unknown[0]!r}; there are {', '.join((*SCENARIOS, *GROUPS))}")
    chosen = [SCENARIOS[key] for key in keys if not options.shape or SCENARIOS[key].shape in options.shape]
    if not chosen:
        shapes = dict.fromkeys(s.shape for s in SCENARIOS.values())
        raise UserError(f"--shape {','.join(options.shape)} leaves no scenario; the backbones are {', '.join(shapes)}")
    return chosen


def write_report(path: Path, result: dict[str, Any]) -> int:
    """Write the result file, its table and, with matplotlib, its plot; print the table and the names of the files.
    Returns the exit code."""
    save(path, result)
    text = report.markdown(result)
    write_atomic(path.with_suffix(".md"), text)
    written = [path, path.with_suffix(".md")]
    print("\n" + text)
    if result.get("scenarios") or result.get("scaling"):
        try:
            report.plot(result, path.with_suffix(""))
            written += [path.with_suffix(".png"), path.with_suffix(".svg")]
        except UserError as lack:
            print(f"no plot: {lack}")
    print("written:", ", ".join(map(str, written)))
    return 0
