"""A rank study: score against LoRA's rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modules.reports.plots.layout import add_legend, grid_of, new_figure, spread_note
from modules.reports.plots.style import styles
from modules.reports.tables.rank_study import RankStudy
from modules.reports.tables.section import Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rank(section: Section, study: RankStudy) -> Figure:
    """A facet for each column and for their mean: score against LoRA's rank, a line for each choice of matrices."""
    facets = [((column,), column.title) for column in study.columns]
    if section.benchmark.average and len(study.columns) > 1:
        facets.append((study.columns, "Mean"))
    rows, across = grid_of(len(facets))
    figure, axes = new_figure(section, "LoRA's rank and adapted matrices", rows, across, (2.9, 2.5))
    style_of = {id(row): style for row, style in zip(section.rows, styles(section), strict=True)}
    for ax, (columns, name) in zip(axes, facets, strict=False):
        for number, target in enumerate(study.targets):
            own = [row for r in study.ranks for row in study.rows.get((target, r), ())]
            points = [
                (r * 2 ** (0.08 * (number - (len(study.targets) - 1) / 2)), *row.mean(columns))
                for r in study.ranks
                for row in study.rows.get((target, r), ())
            ]
            x, y, spread = zip(*points, strict=True)
            errors = [0 if value is None else value for value in spread]
            ax.errorbar(x, y, yerr=errors, label=target, capsize=2.5, ms=5, lw=1.2, **style_of[id(own[0])].drawn())
        ax.set_xscale("log", base=2)
        ax.set_xticks(study.ranks, [str(r) for r in study.ranks])
        ax.minorticks_off()
        ax.set_title(name)
    for ax in axes[len(facets) :]:
        ax.remove()
    add_legend(figure, axes, f"x: r, logarithmic, points shifted so that bars stay apart; {spread_note(section)}")
    return figure
