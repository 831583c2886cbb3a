"""Heat maps of subspace similarity (LoRA paper, Figures 3 and 4)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from modules.analysis.adapter_directions import block_and_kind, paths_by_kind
from modules.analysis.similarity import Pair
from modules.reports.plots.image_files import saved_figure

TITLE = (
    "Directions that two adapters share\n"
    "φ(i, j): overlap of the spans of the first's i and the second's j strongest directions (0: none, 1: all)"
)


def draw(path: Path, pair: Pair, most: int = 4) -> None:
    """Write heat maps of a pair as ``path``.png and ``path``.svg.

    A row for each kind of matrix: up to ``most`` blocks from the first to the last, one before training, random ones.
    All maps have one scale, from 0 to the largest value of any.

    Raises:
        UserError: matplotlib is not installed, or the disk is full.
    """
    by_path = {site.path: site for site in pair.sites}
    grouped = paths_by_kind(by_path)
    chosen = {kind: [by_path[path] for path in evenly(paths, most)] for kind, paths in grouped.items()}
    columns = max(map(len, chosen.values())) + 2
    grids = [grid for site in by_path.values() for grid in (site.trained, site.start, site.random) if grid is not None]
    highest = max(float(grid.max()) for grid in grids)
    with saved_figure(path, 1.35 * columns + 1.2, 1.35 * len(chosen) + 1.1) as figure:
        figure.suptitle(TITLE, fontsize=9)
        axes = figure.subplots(len(chosen), columns, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for line, (kind, sites) in zip(axes, chosen.items(), strict=True):
            middle = sites[len(sites) // 2]
            panels = [(f"block {block_and_kind(site.path)[0]}", site.trained) for site in sites]
            line[0].text(
                -0.35, 0.5, kind, rotation=90, ha="right", va="center", fontsize=6, transform=line[0].transAxes
            )
            for axis, (title, grid) in zip(line, panels, strict=False):
                image = _map(axis, title, grid, highest)
            if middle.start is not None:
                _map(line[-2], f"block {block_and_kind(middle.path)[0]}, start", middle.start, highest)
            _map(line[-1], "random", middle.random, highest)
        figure.colorbar(image, ax=axes, label="φ(i, j)", shrink=0.8, fraction=0.03)
        figure.supylabel(f"i: {pair.a.label}", fontsize=7)
        figure.supxlabel(f"j: {pair.b.label}", fontsize=7)


def _map(axis, title: str, grid: Tensor, highest: float):
    m, n = grid.shape
    axis.set_axis_on()
    axis.set_title(title)
    axis.set_xticks([1, n])
    axis.set_yticks([1, m])
    axis.tick_params(labelsize=6, length=2)
    return axis.imshow(
        grid.cpu().numpy(),
        vmin=0,
        vmax=highest,
        aspect="auto",
        interpolation="none",
        extent=(0.5, n + 0.5, m + 0.5, 0.5),
    )


def evenly(items: list, most: int) -> list:
    """At most ``most`` of ``items``, evenly spaced from the first to the last."""
    if len(items) <= most:
        return items
    return [items[round(k * (len(items) - 1) / (most - 1))] for k in range(most)]
