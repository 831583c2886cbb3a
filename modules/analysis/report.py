"""Tables and heat maps of what adapters of several runs have in common, and of what they amplify."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from variants.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from modules.analysis.adapter_directions import Directions

PAPER = (
    "Printed in Table 7 for W_q of block 48 of GPT-3 175B, ‖W‖ 61.95: r=4: ‖ΔW‖ 6.91, by ΔW 0.32, by W 21.67, random "
    "0.02, factor 21.5; r=64: ‖ΔW‖ 3.57, by ΔW 1.90, by W 37.71, random 0.33."
)


@dataclass
class Site:
    """Grids φ(i, j), (m, n), of one site in two runs; ``start`` is None where it is not known."""

    path: str
    trained: Tensor
    start: Tensor | None
    random: Tensor
    width: int

    @property
    def points(self) -> list[tuple[int, int]]:
        """The (i, j) that tables show: 1, 2, 4, ... of both, and all of both."""
        m, n = self.trained.shape
        return [(k, k) for k in (1, 2, 4, 8, 16, 32, 64, 128) if k < min(m, n)] + [(m, n)]


@dataclass
class Pair:
    a: Directions
    b: Directions
    sites: list[Site]

    @property
    def name(self) -> str:
        return f"similarity-{self.a.name}-{self.b.name}"

    @property
    def remark(self) -> str:
        """What a shared start does to the figures, or ""."""
        shared = [s for s in self.sites if s.start is not None and s.start[-1, -1] > 0.5 + 0.5 * s.random[-1, -1]]
        if not shared:
            return ""
        return (
            "These two runs started from common rows of A (one seed gives them): much of what they share was there "
            "before training. Compare runs of different seeds."
        )


def compare(a: Directions, b: Directions) -> Pair:
    """The sites that both runs adapt.

    Raises:
        UserError: they have none in common.
    """
    from modules.analysis.subspace import gaussian, similarity

    sites = []
    for path in [path for path in a.trained if path in b.trained]:
        U, V = a.trained[path], b.trained[path]
        if len(U) != len(V):
            raise UserError(f"{a.name} and {b.name} are on backbones of different width: {path} has {len(U)}, {len(V)}")
        start = similarity(a.start[path], b.start[path]) if path in a.start and path in b.start else None
        random = similarity(gaussian(U.shape[1], len(U), 0), gaussian(V.shape[1], len(V), 1))
        sites.append(Site(path, similarity(U, V), start, random, len(U)))
    if not sites:
        raise UserError(f"{a.name} and {b.name} adapt no site in common")
    return Pair(a, b, sites)


# ---- tables ------------------------------------------------------------------------------------------------


def similarity_rows(pair: Pair) -> Iterable[dict[str, Any]]:
    """The CSV table's rows: one for each site and point."""
    from modules.analysis.subspace import by_chance

    for site in pair.sites:
        for i, j in site.points:
            grids = {"similarity": site.trained, "start": site.start, "random": site.random}
            values = {k: "" if grid is None else f"{grid[i - 1, j - 1]:.4f}" for k, grid in grids.items()}
            chance = f"{by_chance(i, j, site.width):.4f}"
            yield {"a": pair.a.name, "b": pair.b.name, "site": site.path, "i": i, "j": j, **values, "by_chance": chance}


def amplification_rows(run: Directions) -> Iterable[dict[str, Any]]:
    """The CSV table's rows: one for each site."""
    for path, one in run.amplified.items():
        names = ("delta", "weight", "on_delta", "on_weight", "on_random", "factor")
        norms = {name: f"{getattr(one, name):.4g}" for name in names}
        yield {"run": run.name, "site": path, "r": one.rank, **norms}


def as_csv(rows: Iterable[dict[str, Any]]) -> str:
    rows, file = list(rows), io.StringIO()
    writer = csv.DictWriter(file, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def kinds(paths: Iterable[str]) -> dict[str, list[str]]:
    """Paths by the place within their blocks."""
    from modules.analysis.adapter_directions import block_and_kind

    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(block_and_kind(path)[1], []).append(path)
    return found


def spread(values: list[float], digits: str = ".2f") -> str:
    """Median and range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{digits}} ({low:{digits}} to {high:{digits}})" if len(values) > 1 else f"{middle:{digits}}"


def as_markdown(runs: list[Directions], pairs: list[Pair], of: str, plots: bool = True) -> str:
    """All tables, summed up over the blocks: median and range; ``plots``: with links to the heat maps."""
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
    from modules.analysis.subspace import by_chance

    lines = [f"## φ(i, j): {pair.a.label} and {pair.b.label}", ""]
    lines += [f"i of `{pair.a.name}`, j of `{pair.b.name}`. {pair.remark}".rstrip(), ""]
    lines += ["| site | i, j | trained | at the start | random | by chance |", "|---|---|---|---|---|---|"]
    by_path = {site.path: site for site in pair.sites}
    for kind, paths in kinds(by_path).items():
        sites = [by_path[path] for path in paths]
        for i, j in sites[0].points:
            alike = [site for site in sites if (i, j) in site.points]  # ranks may differ between blocks
            trained, random = (
                spread([float(getattr(site, name)[i - 1, j - 1]) for site in alike]) for name in ("trained", "random")
            )
            known = [float(site.start[i - 1, j - 1]) for site in alike if site.start is not None]
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
        for kind, paths in kinds(run.amplified).items():
            ones = [run.amplified[path] for path in paths]
            names = ("delta", "weight", "on_delta", "on_weight", "on_random", "factor")
            cells = [spread([getattr(one, name) for one in ones], ".3g") for name in names]
            rank = "-".join(str(r) for r in sorted({min(o.rank for o in ones), max(o.rank for o in ones)}))
            lines.append(f"| {run.label} | {kind} | {rank} | {' | '.join(cells)} |")
    return [*lines, "", PAPER]


# ---- heat maps ---------------------------------------------------------------------------------------------


def draw(path: Path, pair: Pair, most: int = 4) -> None:
    """A row of heat maps for each kind of matrix: up to ``most`` blocks from first to last, the start, random."""
    from modules.analysis.adapter_directions import block_and_kind
    from modules.reports.plots.image_files import saved_figure

    by_path = {site.path: site for site in pair.sites}
    grouped = kinds(by_path)
    chosen = {kind: [by_path[path] for path in evenly(paths, most)] for kind, paths in grouped.items()}
    columns = max(map(len, chosen.values())) + 2
    with saved_figure(path, 1.35 * columns + 1.2, 1.35 * len(chosen) + 0.7) as drawing:
        axes = drawing.subplots(len(chosen), columns, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for line, (kind, sites) in zip(axes, chosen.items(), strict=True):
            middle = sites[len(sites) // 2]
            panels = [(f"block {block_and_kind(site.path)[0]}", site.trained) for site in sites]
            line[0].text(
                -0.35, 0.5, kind, rotation=90, ha="right", va="center", fontsize=6, transform=line[0].transAxes
            )
            for axis, (title, grid) in zip(line, panels, strict=False):
                image = _map(axis, title, grid)
            if middle.start is not None:
                _map(line[-2], f"block {block_and_kind(middle.path)[0]}, start", middle.start)
            _map(line[-1], "random", middle.random)
        drawing.colorbar(image, ax=axes, label="φ(i, j)", shrink=0.8, fraction=0.03)
        drawing.supylabel(f"i: {pair.a.label}", fontsize=7)
        drawing.supxlabel(f"j: {pair.b.label}", fontsize=7)


def _map(axis, title: str, grid: Tensor):
    m, n = grid.shape
    axis.set_axis_on()
    axis.set_title(title)
    axis.set_xticks([1, n])
    axis.set_yticks([1, m])
    axis.tick_params(labelsize=6, length=2)
    return axis.imshow(
        grid.cpu().numpy(), vmin=0, vmax=1, aspect="auto", interpolation="none", extent=(0.5, n + 0.5, m + 0.5, 0.5)
    )


def evenly(items: list, most: int) -> list:
    """At most ``most`` of ``items``, from the first to the last."""
    if len(items) <= most:
        return items
    return [items[round(k * (len(items) - 1) / (most - 1))] for k in range(most)]
