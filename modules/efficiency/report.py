"""A result file as Markdown tables and as a plot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modules.efficiency import thresholds
from modules.efficiency.scaling import report as scaling
from modules.efficiency.steps.grid import DENSE, LIMIT_PACKED, LIMIT_TOGETHER, REFERENCE, TOGETHER
from modules.efficiency.steps.loss_curves import AGREE, FIGURES, ROUNDED, agrees
from modules.reports.plots.image_files import saved_figure

READING = """\
A cell is a median; brackets hold the quartiles over the rounds. Ratios are taken within a round, in which all ways
take turns. The limit is the frozen model's forward pass and the backward pass to its activations alone, with the task
head trained; / limit: the limit in the same mode. It has padding, as the batch has; `limit-packed` and ours have none
(BERTs alone), and `limit-packed` is what the same work would cost without an adapter. `peft` has fp32 adapters under
autocast, `peft-bf16` bf16 adapters without it; the bars compare with the better. `graphs`: the whole step as one CUDA
graph; `trained`: as this project's command trains. PEFT adapts GPT-2's whole c_attn, ours its q and v."""
COUNTS = {"launches": "launches", "kernels": "kernels", "peak_mb": "peak, MB", "trained": "trained parameters"}
_INK, _MUTED = "#1f2328", "#8c959f"
_COLOURS = {
    "limit": "#8c959f",
    "full": "#bf8700",
    "ours": "#0969da",
    DENSE: "#1b7c83",
    REFERENCE: "#80ccff",
    TOGETHER: "#54aeff",
    LIMIT_PACKED: "#afb8c1",
    LIMIT_TOGETHER: "#d0d7de",
    "peft": "#cf222e",
    "peft-bf16": "#fa7a83",
    "peft-liger": "#a40e26",
    "peft-liger-bf16": "#ff8182",
}
_WORDS = {
    "ours": "this project",
    DENSE: "this project on the dense base",
    REFERENCE: "this project without its acceleration",
    TOGETHER: "this project, five seeds in one step",
    "peft": "PEFT, fp32 adapters under autocast",
    "peft-bf16": "PEFT, bf16 adapters",
    "peft-liger": "PEFT, fp32 adapters under autocast, with Liger's kernels and its loss",
    "peft-liger-bf16": "PEFT, bf16 adapters, with Liger's kernels and its loss",
    "full": "full fine-tuning",
    "limit": "the frozen model's forward pass and backward pass to its activations, without an adapter",
    LIMIT_PACKED: "the same without padding",
    LIMIT_TOGETHER: "the same with the rows of five seeds",
}
"""What the names of libraries stand for; in the order of the legend."""
_MODES = (
    "point: median; line: quartiles over the rounds. eager: kernel by kernel; compiled: torch.compile;\n"
    "graphs: the step as one CUDA graph; trained: as this project's command trains"
)


def markdown(result: dict[str, Any]) -> str:
    """The whole result: thresholds, loss curves, whole jobs, then every scenario."""
    environment, scaled = result["environment"], result.get("scaling")
    title = f"Training at the hardware's limit: {environment['device']}"
    if scaled:
        title = f"Scaling: {environment['devices']} × {environment['device']}"
    reading = (scaling.READING if scaled else READING).split()
    parts = [
        f"# {title}",
        "",
        f"torch {environment['torch']}, transformers {environment['transformers']}, "
        f"PEFT {result.get('peft') or 'absent'}. {' '.join([*reading, *result.get('remarks', ())])}",
        "",
    ]
    if not result.get("peft"):
        parts += ["PEFT is not installed (`pip install peft`): its rows are missing.", ""]
    parts += [*_thresholds(result), *_loss_curves(result.get("curves", [])), *_jobs(result.get("jobs", []))]
    for scenario in result.get("scenarios", {}).values():
        parts += [*_scenario(scenario), ""]
    parts += scaling.markdown(scaled) if scaled else []
    return "\n".join(parts).rstrip() + "\n"


def bracketed(spread: tuple[float, float, float]) -> str:
    """Such as ``1.21 [1.20, 1.24]``."""
    low, median, high = (f"{value:.3f}" for value in spread)
    return median if low == median == high else f"{median} [{low}, {high}]"


def _thresholds(result: dict[str, Any]) -> list[str]:
    rows = thresholds.rows(result)
    if not rows:
        return []
    lines = ["## Bars", "", "| bar | measured as | must be | measured | |", "|---|---|---|---|---|"]
    for row in rows:
        bound = f"{'≥' if row.get('least') else '<' if row['strict'] else '≤'} {row['limit']:g}"
        met = "met" if row["met"] else "**not met**"
        lines.append(f"| {row['bar']} | {row['what']} | {bound} | {bracketed(row['measured'])} | {met} |")
    return [*lines, ""]


def _loss_curves(records: list[dict[str, Any]]) -> list[str]:
    if not records:
        return []
    lines = [
        "## Loss curves",
        "",
        "Ours against PEFT's eager step from equal adapters, head and batches, no dropout: the largest difference "
        f"of the losses over {records[0]['steps']} steps, as a share of the first, beside that without the adapter. "
        "In bf16 the two round in different places: figures are medians over several starting adapters, and rounding "
        "alone is how far bf16 takes PEFT's own curve from its curve in fp32. Steps amplify what is rounded; nothing "
        "is amplified at equal weights, those of each of PEFT's steps in fp32: how far losses (at most) and gradients "
        "(all steps together) are from PEFT's in fp32 there, ours and PEFT's own in bf16. Equal are, in fp32, curves "
        f"that differ by at most {AGREE:.0%} of what the adapter does and, in bf16, losses and gradients at equal "
        f"weights that are at most {ROUNDED:g} times as far off as PEFT's own.",
        "",
        "| backbone | method | precision | ours | difference | without the adapter | rounding alone | "
        "at equal weights: losses | PEFT's | gradients | PEFT's | |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in records:
        if "failed" in r:
            told = f"failed: {r['failed']}" + " |" * len(FIGURES)
        else:
            told = "".join(f"{r[name]:.1e} | " if name in r else " | " for name in FIGURES)
            told += "equal" if agrees(r) else "**differs**"
        lines.append(f"| {r['shape']} | {r['method']} | {r['precision']} | {r['mode']} | {told} |")
    return [*lines, ""]


def _jobs(jobs: list[dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    for job in jobs:
        lines += [f"## {job['title']}", "", job["note"], "", "| | seconds, each repeat |", "|---|---|"]
        lines += [f"| {name} | {', '.join(f'{s:.1f}' for s in times)} |" for name, times in job["seconds"].items()]
        lines += [""]
    return lines


def _scenario(s: dict[str, Any]) -> Iterator[str]:
    yield f"## {s['title']}"
    yield ""
    turns = "in turn" if s["in_turn"] else "one after the other (memory is short): times of different rows vary more"
    yield f"{s['precision']}, {s['rounds']} rounds of {s['passes']} passes over {s['batches']} batches, ways {turns}."
    yield ""
    counted = {k: title for k, title in COUNTS.items() if any(k in record for record in s["ways"].values())}
    base = "limit" if any(record["library"] == "limit" for record in s["ways"].values()) else "ours lora"
    has_graphs = "limit graphs" in s["ways"]
    unit = "pictures/s" if s["title"].partition(", attn")[0].endswith("latents") else "tokens/s"
    heads = ["way", "step, ms", unit, f"/ {base}", *(["/ limit, graphs"] if has_graphs else []), *counted.values()]
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for name, record in s["ways"].items():
        if "failed" in record:
            yield f"| {name} | failed: {record['failed'].replace('|', '/')} {'| ' * (len(heads) - 1)}"
            continue
        mode = "graphs" if record["mode"] == "trained" and base == "limit" else record["mode"]
        ratios = [thresholds.ratio(s, name, f"{base} {m}") for m in (mode, *(["graphs"] if has_graphs else []))]
        q1, q3 = record["step_ms_quartiles"]
        cells = [f"{record['step_ms']:.2f} [{q1:.2f}, {q3:.2f}]", f"{record['tokens_per_s']:,}"]
        cells += [bracketed(r) if r else "" for r in ratios]
        cells += [_number(record.get(k)) for k in counted]
        yield f"| {name} | {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def plot(result: dict[str, Any], path: Path) -> None:
    """Write step times of every scenario as points with quartiles, the limit as a line, to ``path``.png and
    ``path``.svg; of a scaling benchmark its own plot.

    Raises:
        UserError: matplotlib is not installed.
    """
    if result.get("scaling"):
        return scaling.plot(result["scaling"], result["environment"]["device"], path)
    scenarios = [s for s in result["scenarios"].values() if any("step_ms" in r for r in s["ways"].values())]
    heights = [0.9 + 0.2 * sum("step_ms" in r for r in s["ways"].values()) for s in scenarios]
    libraries = {r["library"] for s in scenarios for r in s["ways"].values() if "step_ms" in r}
    with saved_figure(path, 8, sum(heights) + 0.9 + 0.15 * len(libraries)) as figure:
        from matplotlib.lines import Line2D

        axes = figure.subplots(len(scenarios), height_ratios=heights, squeeze=False)
        for s, axis in zip(scenarios, axes[:, 0], strict=True):
            _panel(axis, s)
        figure.suptitle(f"Time of a training step on {result['environment']['device']}", fontsize=11, color=_INK)
        marks = [
            Line2D([], [], marker="o", ls="", color=_COLOURS[name], label=f"{name}: {words}")
            for name, words in _WORDS.items()
            if name in libraries
        ]
        figure.legend(
            handles=marks, loc="outside lower left", title=_MODES, title_fontsize=8, fontsize=8, frameon=False
        )


def _panel(axis, s: dict[str, Any]) -> None:
    ways = sorted(((n, r) for n, r in s["ways"].items() if "step_ms" in r), key=lambda x: -x[1]["step_ms"])
    limits = [r["step_ms"] for _, r in ways if r["library"] == "limit"]
    if limits:
        axis.axvline(min(limits), color=_INK, linewidth=0.8, linestyle=":")
    for place, (_, r) in enumerate(ways):
        colour, (low, high) = _COLOURS[r["library"]], r["step_ms_quartiles"]
        axis.plot([min(low, r["step_ms"]), max(high, r["step_ms"])], [place, place], color=colour, linewidth=1.5)
        axis.plot(r["step_ms"], place, "o", color=colour, markersize=5)
        text = {"xytext": (9, 0), "textcoords": "offset points", "va": "center", "fontsize": 7, "color": _INK}
        axis.annotate(f"{r['step_ms']:.1f}", (max(high, r["step_ms"]), place), **text)
    axis.set_yticks(range(len(ways)), [n for n, _ in ways])
    axis.set_title(f"{s['title']}, {s['precision']}", loc="left", fontsize=9, color=_INK)
    axis.set_xscale("log")
    low, high = (pick(r["step_ms"] for _, r in ways) for pick in (min, max))
    ticks = [
        t
        for t in (0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500, 1000, 2000)
        if low / 1.3 <= t <= high * 1.5
    ]
    axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    axis.set_xlim(low / 1.15, high * 1.35)
    axis.set_xlabel("ms, logarithmic (dotted: the fastest limit)", fontsize=8, color=_INK)
    axis.tick_params(labelsize=7)
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axis.margins(y=0.03)
    axis.spines[["top", "right"]].set_visible(False)
