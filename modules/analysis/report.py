"""Tables of the directions that adapters share and of what they amplify (LoRA paper, section 7)."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable
from typing import Any

from modules.analysis.adapter_directions import Directions, paths_by_kind
from modules.analysis.similarity import Pair
from modules.analysis.subspace import by_chance

PAPER = (
    "Printed in Table 7 for W_q of block 48 of GPT-3 175B, ‖W‖ 61.95: r=4: ‖ΔW‖ 6.91, by ΔW 0.32, by W 21.67, random "
    "0.02, factor 21.5; r=64: ‖ΔW‖ 3.57, by ΔW 1.90, by W 37.71, random 0.33."
)


def similarity_rows(pair: Pair) -> Iterable[dict[str, Any]]:
    """Rows of similarity.csv: one for each site and point."""
    for site in pair.sites:
        for i, j in site.points:
            grids = {"similarity": site.trained, "start": site.start, "random": site.random}
            values = {k: "" if grid is None else f"{grid[i - 1, j - 1]:.4f}" for k, grid in grids.items()}
            chance = f"{by_chance(i, j, site.width):.4f}"
            yield {"a": pair.a.name, "b": pair.b.name, "site": site.path, "i": i, "j": j, **values, "by_chance": chance}


def amplification_rows(run: Directions) -> Iterable[dict[str, Any]]:
    """Rows of amplification.csv: one for each site."""
    for path, norms in run.amplified.items():
        names = ("delta", "weight", "on_delta", "on_weight", "on_random", "factor")
        texts = {name: f"{getattr(norms, name):.4g}" for name in names}
        yield {"run": run.name, "site": path, "r": norms.rank, **texts}


def as_csv(rows: Iterable[dict[str, Any]]) -> str:
    """CSV of at least one row."""
    rows, file = list(rows), io.StringIO()
    writer = csv.DictWriter(file, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def spread(values: list[float], digits: str = ".2f") -> str:
    """Such as ``0.31 (0.20 to 0.42)``: median and range; a single value alone."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{digits}} ({low:{digits}} to {high:{digits}})" if len(values) > 1 else f"{middle:{digits}}"


def as_markdown(runs: list[Directions], pairs: list[Pair], of: str, plots: bool = True) -> str:
    """All tables, each figure as median and range over the blocks.

    Args:
        of: "A" or "delta", the matrix whose directions they are.
        plots: with links to the heat maps.
    """
    matrix = "A" if of == "A" else "ΔW"
    lines = [
        "# Directions of low-rank updates",
        "",
        f"Right singular vectors of {matrix}; median (range) over blocks.",
        "",
    ]
    lines += [f"- `{run.name}`: {run.label}" for run in runs]
    lines += [f"- {run.remark}" for run in runs if run.remark]
    for pair in pairs:
        lines += ["", *_similarity(pair), *(["", f"![heat maps]({pair.name}.png)"] if plots else [])]
    if amplified := [run for run in runs if run.amplified]:
        lines += ["", *_amplification(amplified)]
    return "\n".join(lines) + "\n"


def _similarity(pair: Pair) -> list[str]:
    lines = [f"## φ(i, j): {pair.a.label} and {pair.b.label}", ""]
    lines += [f"i of `{pair.a.name}`, j of `{pair.b.name}`. {pair.remark}".rstrip(), ""]
    lines += ["| site | i, j | trained | at the start | random | by chance |", "|---|---|---|---|---|---|"]
    by_path = {site.path: site for site in pair.sites}
    for kind, paths in paths_by_kind(by_path).items():
        sites = [by_path[path] for path in paths]
        for i, j in sites[0].points:
            same_rank = [site for site in sites if (i, j) in site.points]  # ranks may differ between blocks
            trained, random = (
                spread([float(getattr(site, name)[i - 1, j - 1]) for site in same_rank])
                for name in ("trained", "random")
            )
            known = [float(site.start[i - 1, j - 1]) for site in same_rank if site.start is not None]
            start = spread(known) if known else ""
            chance = f"{by_chance(i, j, sites[0].width):.2f}"
            random = random.partition(" ")[0]
            lines.append(f"| {kind} | {i}, {j} | {trained} | {start} | {random} | {chance} |")
    return lines


def _amplification(runs: list[Directions]) -> list[str]:
    lines = [
        "## Amplification (Table 7)",
        "",
        "‖UᵀWVᵀ‖ with U and V the first r singular directions of ΔW, W, a random matrix.",
        "",
    ]
    lines += [
        "| run | site | r | ‖ΔW‖ | ‖W‖ | by ΔW | by W | random | factor |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        for kind, paths in paths_by_kind(run.amplified).items():
            blocks = [run.amplified[path] for path in paths]
            names = ("delta", "weight", "on_delta", "on_weight", "on_random", "factor")
            cells = [spread([getattr(block, name) for block in blocks], ".3g") for name in names]
            rank = "-".join(str(r) for r in sorted({min(b.rank for b in blocks), max(b.rank for b in blocks)}))
            lines.append(f"| {run.label} | {kind} | {rank} | {' | '.join(cells)} |")
    return [*lines, "", PAPER]
