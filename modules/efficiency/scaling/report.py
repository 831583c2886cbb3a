"""The scaling benchmark's record as Markdown and as a plot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modules.efficiency.scaling.plan import PAYS, SMALL, Network, Plan, fitted, plan
from modules.efficiency.scaling.thresholds import ratio
from modules.efficiency.scaling.workloads import Record, Workload, run_name, steady, workload
from modules.efficiency.steps.measure import quartiles
from modules.reports.plots.image_files import saved_figure

READING = """\
Each figure comes from the ordinary command (`paper_repro/glue.py`, `paper_repro/e2e.py`) in a fresh process with
`--trainer.devices N`: backbones of published sizes in random weights, LoRA r=8, rows of the real data. A step time is
the median of the mean step times of the later half of the epochs, without evaluation; brackets hold the quartiles over
rounds, in which all numbers of GPUs take turns. *Weak*: the rows of each GPU are kept; *strong*: the rows of all GPUs
together. PEFT runs under accelerate's DistributedDataParallel on the same rows in padded batches; `compiled` and
`graphs` are torch.compile's modes default and reduce-overhead; `bf16`: its adapters are bf16 too, without autocast."""
ON_CPU = "**Processes that share the cores of one CPU: this shows that the benchmark works, and nothing of scaling.**"
_COLOURS = ("#0969da", "#cf222e", "#1a7f37", "#bf8700")
_INK, _MUTED = "#1f2328", "#8c959f"


def markdown(scaling: dict[str, Any]) -> list[str]:
    """The lines of all tables: what was measured, then what is planned on paper."""
    lines = [] if scaling.get("device") == "cuda" else [ON_CPU, ""]
    if scaling.get("gpus") == 1:
        lines += ["There was one GPU: nothing could be scaled, and the plan leaves out all-reduce.", ""]
    for shape, record in scaling.get("workloads", {}).items():
        lines += [*_workload(workload(shape), record), ""]
    lines += [*_all_reduce(scaling), *_sharded(scaling), *_plans(scaling)]
    return lines


def _workload(work: Workload, record: Record) -> Iterator[str]:
    yield f"## {work.title}"
    yield ""
    yield "| | GPUs | rows of each | step, ms | against one GPU | tokens of a step | peak, MB |"
    yield "|---|---|---|---|---|---|---|"
    one = run_name(1, work.rows)
    for run in record["runs"].values():
        known = [ms for ms in run["rounds_ms"] if ms is not None]
        start = f"| ours | {run['gpus']} | {run['rows']} |"
        if not known:
            yield f"{start} failed: {_cell(run['failed'])} | | | |"
            continue
        yield f"{start} {_spread(quartiles(known))} | {_against(work, record, run, one)} | " + (
            f"{run['tokens']:,} | {_mib(run.get('peak_mb'))} |"
        )
    for way, found in record["peft"].items():
        told = f"{steady(found['epoch_ms']):.2f}" if "epoch_ms" in found else f"failed: {_cell(found['failed'])}"
        yield f"| PEFT, {way} | {found['gpus']} | {found['rows']} | {told} | | | |"


def _against(work: Workload, record: Record, run: dict[str, Any], one: str) -> str:
    """A run beside one GPU: throughput in weak scaling, time in strong."""
    name, gpus = run_name(run["gpus"], run["rows"]), run["gpus"]
    if gpus == 1:
        return ""
    if run["rows"] == work.rows:
        spread = ratio(record, one, name, gpus)
        return f"weak: throughput {_spread(spread)} ×" if spread else ""
    spread = ratio(record, name, one)
    return f"strong: step {_spread(spread)} ×" if spread else ""


def _all_reduce(scaling: dict[str, Any]) -> list[str]:
    known = scaling.get("all_reduce", {})
    if not known:
        return []
    lines = ["## All-reduce of a flat fp32 buffer", ""]
    for gpus, found in known.items():
        if "failed" in found:
            lines += [f"On {gpus}: failed: {found['failed']}", ""]
            continue
        sizes = " | ".join(f"{size / 1e6:.3g} MB" for size in found["bytes"])
        times = " | ".join(f"{ms:.4f}" for ms in found["ms"])
        lines += [f"| GPUs | {sizes} |", "|---" * (len(found["bytes"]) + 1) + "|", f"| {gpus}, ms | {times} |", ""]
    if line := fitted(scaling):
        told = f"Fitted on {line.gpus}: {1000 * line.latency_ms:.1f} µs + bytes at {line.gbytes_per_s:.0f} GB/s"
        lines += [f"{told} (what each GPU sends).", ""]
    return lines


def _sharded(scaling: dict[str, Any]) -> list[str]:
    found = scaling.get("sharded")
    if not found:
        return []
    lines = [
        "## A model larger than a GPU, in shards (`--trainer.strategy fsdp2`)",
        "",
        f"LLaMA 7B, LoRA r={found['r']} on all linear maps, rows of {found['width']} tokens, bf16, plain eager steps, "
        "no gradient checkpointing. Rows of all kept: the same command with more GPUs.",
        "",
        "| GPUs x rows of each | peak memory of each, GiB | step, ms | loss of the first step |",
        "|---|---|---|---|",
    ]
    for name, one in found["runs"].items():
        told = _cell(one["failed"]) + " | | " if "failed" in one else ""
        told = told or f"{one['peak_mb'] / 1024:.1f} | {one['step_ms']:.0f} | {one['loss']:.4f}"
        lines.append(f"| {name.replace('x', ' x ')} | {told} |")
    return [*lines, ""]


def plans(scaling: dict[str, Any]) -> dict[str, Plan]:
    """The plan of every workload that has one, by backbone."""
    network, line = Network(**scaling.get("network", {})), fitted(scaling)
    found = {
        shape: plan(workload(shape), record, line, network) for shape, record in scaling.get("workloads", {}).items()
    }
    return {shape: one for shape, one in found.items() if one}


def _plans(scaling: dict[str, Any]) -> list[str]:
    found = plans(scaling)
    if not found:
        return []
    network = Network(**scaling.get("network", {}))
    lines = [
        "## Planned on paper",
        "",
        "**A model, no measurement.** step = compute + wait + all-reduce + rest. Compute: the line through one GPU's "
        f"steps with all rows and with 1/{SMALL} of them. Wait: for the rank with the most tokens, from the published "
        f"lengths. All-reduce: measured, its latency times log2 of the GPUs of a host ({network.gpus}); between hosts "
        f"another over one card of each, assumed at {network.gbps:g} Gbit/s and {network.us:g} µs a message. Rest: "
        "what these do not explain of the measured step on several GPUs. Not in it: slower hosts, a shared network, "
        f"reading data. Doubling pays where a step becomes at least {PAYS:g} times shorter. In brackets: measured. "
        "The last three columns are ms of weak scaling.",
        "",
    ]
    for shape, one in found.items():
        lines += [f"### {workload(shape).title}", "", *_plan(one), ""]
    return lines


def _plan(one: Plan) -> Iterator[str]:
    yield "| GPUs | weak: step, ms | throughput | strong: step, ms | against one | all-reduce | wait | rest |"
    yield "|---|---|---|---|---|---|---|---|"
    first = one.weak[1]
    for gpus, step in one.weak.items():
        strong = one.strong.get(gpus)
        right = f"{_planned(strong)} | {strong.ms / one.strong[1].ms:.2f} ×" if strong else " | "
        throughput = gpus * first.ms / step.ms
        yield (
            f"| {gpus} | {_planned(step)} | {throughput:.1f} × ({throughput / gpus:.0%}) | {right} "
            f"| {step.all_reduce:.3f} | {step.wait:.2f} | {step.rest:.2f} |"
        )
    yield ""
    if not one.strong:
        yield "Strong scaling needs the run with few rows on one GPU, which `--quick` leaves out."
    elif (stop := one.stops()) is not None:
        gain = f"the next doubling gains less than {100 * (PAYS - 1):.0f} %."
        yield f"Strong scaling pays up to {stop} GPU{'s' * (stop > 1)}: {gain}"
    else:
        yield f"Strong scaling pays up to {max(one.strong)} GPUs, where each has its last row."


def _planned(step: Any) -> str:
    return f"{step.ms:.2f}" + (f" ({step.measured:.2f})" if step.measured is not None else "")


def _spread(spread: tuple[float, float, float]) -> str:
    low, median, high = (f"{value:.2f}" for value in spread)
    return median if low == median == high else f"{median} [{low}, {high}]"


def _mib(peak: float | None) -> str:
    """Nothing where it was not kept."""
    return "" if peak is None else f"{peak:,.0f}"


def _cell(text: str) -> str:
    return text.replace("|", "/")


# ---- the plot ------------------------------------------------------------------------------------------------


def plot(scaling: dict[str, Any], title: str, path: Path) -> None:
    """Draw throughput and time of a step against the number of GPUs, and steps beside PEFT's, to ``path``.png and .svg.

    Raises:
        UserError: matplotlib is not installed.
    """
    found = plans(scaling)
    with saved_figure(path, 10, 3.4) as figure:
        weak, strong, beside = figure.subplots(1, 3, width_ratios=(1, 1, 1.1))
        for colour, (shape, one) in zip(_COLOURS, found.items(), strict=False):
            gain = {n: n * one.weak[1].ms / step.ms for n, step in one.weak.items()}
            _line(
                weak,
                shape,
                colour,
                gain,
                {n: n * one.weak[1].ms / s.measured for n, s in one.weak.items() if s.measured},
            )
            if one.strong:
                speed = {n: one.strong[1].ms / step.ms for n, step in one.strong.items()}
                known = {n: one.strong[1].ms / s.measured for n, s in one.strong.items() if s.measured}
                _line(strong, shape, colour, speed, known)
        for axis, name in ((weak, "weak: throughput, × one GPU"), (strong, "strong: speed of a step, × one GPU")):
            most = max((n for one in found.values() for n in one.weak), default=2)
            axis.plot([1, most], [1, most], color=_MUTED, linewidth=0.8, linestyle=":")
            axis.set_xscale("log", base=2)
            axis.set_yscale("log", base=2)
            axis.xaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_major_formatter("{x:g}")
            axis.set_title(name, loc="left", fontsize=9, color=_INK)
            axis.set_xlabel("GPUs (dots: measured; lines: planned on paper)", color=_MUTED)
            axis.spines[["top", "right"]].set_visible(False)
        if found:
            weak.legend(fontsize=7, frameon=False)
        _bars(beside, scaling)
        figure.suptitle(title, fontsize=9, color=_MUTED)


def _line(axis: Any, name: str, colour: str, planned: dict[int, float], measured: dict[int, float]) -> None:
    axis.plot(list(planned), list(planned.values()), color=colour, linewidth=1, linestyle="--")
    axis.plot(
        list(measured), list(measured.values()), color=colour, marker="o", linestyle="none", markersize=4, label=name
    )


def _bars(axis: Any, scaling: dict[str, Any]) -> None:
    """Steps on all GPUs, ours and PEFT's."""
    gpus, bars = scaling.get("gpus", 1), []
    for shape, record in scaling.get("workloads", {}).items():
        run = record["runs"].get(run_name(gpus, workload(shape).rows), {})
        known = [ms for ms in run.get("rounds_ms", ()) if ms is not None]
        bars += [(f"{shape}, ours", quartiles(known)[1], _COLOURS[0])] if known else []
        for way, found in record["peft"].items():
            bars += [(f"{shape}, PEFT {way}", steady(found["epoch_ms"]), _COLOURS[1])] if "epoch_ms" in found else []
    names, times, colours = zip(*reversed(bars), strict=True) if bars else ((), (), ())
    container = axis.barh(names, times, color=colours, height=0.7)
    axis.bar_label(container, [f"{ms:.1f}" for ms in times], padding=3, fontsize=7, color=_INK)
    axis.set_title(f"a step on {gpus}, ms", loc="left", fontsize=9, color=_INK)
    axis.margins(x=0.15)
    axis.spines[["top", "right"]].set_visible(False)
