"""A rank study: score against LoRA's rank."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from modules.reports.plots.layout import add_legend, grid_of, new_figure, spread_note
from modules.reports.plots.style import LINES, styles
from modules.reports.tables.rank_study import LEVEL, RankStudy
from modules.reports.tables.section import Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rank(section: Section, study: RankStudy) -> Figure:
    """A facet for each column and for their mean: score against LoRA's rank, a line for each choice of matrices, and
    a level for full fine-tuning."""
    facets = [((column,), column.title) for column in study.columns]
    if section.benchmark.average and len(study.columns) > 1:
        facets.append((study.columns, "Mean"))
    rows, across = grid_of(len(facets))
    base = f", base in {study.base}" if study.base else ""
    figure, axes = new_figure(section, f"LoRA's rank and adapted matrices{base}", rows, across, (2.9, 2.5))
    style_of = {id(row): style for row, style in zip(section.rows, styles(section), strict=True)}
    lora = [row for rows in study.rows.values() for row in rows]
    lora.sort(key=section.rows.index)
    alone = styles(replace(section, rows=tuple(lora)))  # beside other methods all targets would share a mark
    style_of |= {id(row): style for row, style in zip(lora, alone, strict=True)}
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
        for row, line in zip(study.levels, itertools.cycle(LINES[1:]), strict=False):
            (level, spread), colour = row.mean(columns), style_of[id(row)].colour
            ax.axhline(level, label=f"{LEVEL} {row.label}".strip(), color=colour, lw=1.2, ls=line)
            ax.axhspan(level - (spread or 0), level + (spread or 0), color=colour, alpha=0.1, lw=0)
        ax.set_xscale("log", base=2)
        ax.set_xticks(study.ranks, [str(r) for r in study.ranks])
        ax.minorticks_off()
        ax.set_title(name)
    for ax in axes[len(facets) :]:
        ax.remove()
    add_legend(figure, axes, f"x: r, logarithmic, points shifted so that bars stay apart; {spread_note(section)}")
    return figure
