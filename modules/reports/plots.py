"""Plots of a table's sections: score against parameters, tasks, rank study, training curves.

The same data give the same bytes: files carry no date and no version. Each carries a stamp of what it shows and of this
file instead, so that a plot that is up to date is known without drawing it. Matplotlib is loaded when one is drawn.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import statistics
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from modules.benchmarks.base import Column
from modules.reports import plotting
from modules.reports.cells import title
from modules.reports.rank_study import RankStudy, find
from modules.reports.tables import Cell, Row, Section, natural, short_name
from variants.atomic import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers tell apart; a variant keeps its colour in every plot.
BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE, GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#888888"
)  # fmt: skip
COLOURS = {"full": BLACK, "head": GREY, "lora": BLUE, "adalora": RED, "dora": ORANGE, "vera": GREEN, "bitfit": PURPLE}
MUTED = ("#882255", "#44AA99", "#999933", "#AA4499", "#332288", "#DDCC77", "#117733")  # Tol's, for more variants
OTHERS = (SKY, *MUTED, PURPLE, ORANGE, GREEN, RED, BLUE, BLACK)
MARKERS = "osD^vP*X<>ph"
LINES = ("-", "--", "-.", ":")

Draw = Callable[[Section], "Figure"]


def plots(section: Section) -> dict[str, Draw]:
    """What can be drawn of a section, by the name that its files get."""
    found: dict[str, Draw] = {}
    if _shared(section):
        found["pareto"] = pareto
    if any(len(cell.runs) for row in section.rows for cell in row.cells.values()):
        found["tasks"] = tasks
    if any(len(run.epochs) > 1 for row in section.rows for run in row.runs):
        found["curves"] = curves
    if find(section):
        found["rank"] = lambda section: rank(section, find(section)[0])
    return found


def write_plots(folder: str | Path, sections: Sequence[Section]) -> list[Path]:
    """Write every plot of the sections as PNG and SVG where it is not up to date; the paths of all.

    Raises UserError where matplotlib is needed and missing, or the disk is full.
    """
    paths = []
    for section, name, stamp in _named(sections):
        stale = [Path(folder) / f"{name}.{kind}" for kind in plotting.FORMATS]
        paths += stale
        if any(not fresh(path, stamp) for path in stale):
            draw = plots(section)[name.split("-")[1]]
            for path, content in zip(stale, drawn(draw, section, stamp), strict=True):
                write_atomic(path, content)
    return paths


def stale_plots(folder: str | Path, sections: Sequence[Section]) -> list[Path]:
    """The files that `write_plots` would write. Needs no matplotlib."""
    files = [
        (Path(folder) / f"{name}.{kind}", stamp) for _, name, stamp in _named(sections) for kind in plotting.FORMATS
    ]
    return [path for path, stamp in files if not fresh(path, stamp)]


def _named(sections: Sequence[Section]) -> list[tuple[Section, str, str]]:
    """(section, file name without its ending, stamp) of every plot; sections after the first are named in theirs."""
    found = []
    for number, section in enumerate(sections):
        own = "-" + re.sub(r"\W+", "-", f"{short_name(section.backbone['name'])} {section.data['name']}").strip("-")
        for name in plots(section):
            full = f"{section.benchmark.name}-{name}" + own.lower() * (number > 0)
            found.append((section, full, _stamp(section)))
    return found


def _stamp(section: Section) -> str:
    shown = [title(section), *(run.to_json() for row in section.rows for run in row.runs)]
    shown += [json.dumps(asdict(row), sort_keys=True) for row in section.published]
    text = "\n".join([*shown, *((row.label) for row in section.rows), Path(__file__).read_text(encoding="utf-8")])
    return "shows " + hashlib.sha256(text.encode()).hexdigest()[:32]


def fresh(path: Path, stamp: str) -> bool:
    """Whether the file is there and shows what `stamp` stands for."""
    return path.is_file() and stamp.encode() in path.read_bytes()


def drawn(draw: Draw, section: Section, stamp: str) -> list[bytes]:
    """The plot's bytes in each of `figures.FORMATS`."""
    changes = {
        "font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "grid.color": "#dddddd", "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False,
        "figure.dpi": 100, "svg.fonttype": "path",
    }  # fmt: skip
    with plotting.style(**changes):
        return plotting.rendered(draw(section), stamp, dpi=160, bbox_inches="tight")


# ---- what the plots share -----------------------------------------------------------------------------------------


def _shared(section: Section) -> tuple[Column, ...]:
    """The columns that one figure sums up: those that all rows fill; the first alone where a mean means nothing."""
    shared = [c for c in section.benchmark.columns if all(c.key in row.cells for row in section.rows)]
    return tuple(shared if section.benchmark.average else shared[:1])


def _figure_name(columns: Sequence[Column]) -> str:
    titles = [column.title for column in columns]
    if len(titles) == 1:
        return titles[0]
    return f"mean of {', '.join(titles)}" if len(titles) < 6 else f"mean of {len(titles)} tasks"


@dataclass(frozen=True)
class Style:
    """How one row is drawn: its own label, that of the rows it is one size of, and the marks of those."""

    label: str
    group: str
    size: str
    colour: str
    marker: str
    line: str


def _styles(section: Section) -> list[Style]:
    """A style for each row. Rows of a variant that differ in size alone share colour and marker."""
    names = [_names(row, section) for row in section.rows]
    groups = list(dict.fromkeys(group for group, _ in names))
    first: dict[str, str] = {}
    for row, (group, _) in zip(section.rows, names, strict=True):
        first.setdefault(row.variant, group)
    taken = [COLOURS[variant] for variant in first if variant in COLOURS]
    spare = itertools.cycle([colour for colour in OTHERS if colour not in taken] or OTHERS)
    colours = {group: COLOURS.get(variant) or next(spare) for variant, group in first.items()}
    colours |= {group: next(spare) for group in groups if group not in colours}
    found, seen = [], dict.fromkeys(groups, 0)
    for group, size in names:
        number = groups.index(group)
        line = LINES[(seen[group] + number // len(COLOURS)) % len(LINES)]
        style = Style(f"{group} {size}".strip(), group, size, colours[group], MARKERS[number % len(MARKERS)], line)
        found.append(style)
        seen[group] += 1
    return found


def _names(row: Row, section: Section) -> tuple[str, str]:
    """(group, size): the variant with what tells it from its other rows, and the size among that (r, p)."""
    same = [
        dict(word.partition("=")[::2] for word in o.label.split()) for o in section.rows if o.variant == row.variant
    ]
    own = dict(word.partition("=")[::2] for word in row.label.split())
    differing = [name for name in own if any(other.get(name) != own[name] for other in same)]
    sizes = [name for name in differing if name in ("r", "p", "init_r")]
    words = [
        own[n] if n == "target" else f"{n}={own[n]}"
        for n in differing
        if n not in (*sizes, *["alpha", "lr", "target_r", "budget"] * bool(sizes))  # what a size brings with it
    ]
    protocols = {other.protocol for other in section.rows if other.variant == row.variant}
    group = " ".join([row.variant, *words, *[row.protocol] * (len(protocols) > 1)])
    return group, " ".join(f"{name}={own[name]}" for name in sizes)


def _few(section: Section) -> list[tuple[Row, Style]]:
    """The rows whose curves are drawn: all, of more than ten the smallest and the largest size of each group, of more
    than twenty the largest alone."""
    pairs = list(zip(section.rows, _styles(section), strict=True))
    if len(pairs) <= 10:
        return pairs
    groups: dict[str, list[tuple[Row, Style]]] = {}
    for pair in pairs:
        groups.setdefault(pair[1].group, []).append(pair)
    ordered = [sorted(group, key=lambda pair: natural(pair[1].size)) for group in groups.values()]
    if len(pairs) > 20:
        ends = [group[-1:] for group in ordered]
    else:
        ends = [group if len(group) < 3 else [group[0], group[-1]] for group in ordered]
    return [(row, replace(style, line=LINES[k])) for group in ends for k, (row, style) in enumerate(group)]


def _new(section: Section, what: str, rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure of facets, `size` inches each, titled with what it shows, backbone and data."""
    from matplotlib.figure import Figure

    width, height = size[0] * columns, size[1] * rows
    lines = textwrap.wrap(f"{what}: {title(section)}", max(40, int(width * 13)))
    figure = Figure(figsize=(width, height + 0.2 * len(lines) + 0.3), layout="constrained")
    figure.suptitle("\n".join(lines), fontsize=11)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _legend(figure: Figure, axes: Sequence[Axes], note: str) -> None:
    """One legend below the figure, each entry once, under a line that says how to read the figure."""
    entries: dict[str, object] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    width = max((len(label) for label in entries), default=1)
    columns = max(1, min(len(entries), int(figure.get_figwidth() * 11 / (width + 7))))
    figure.set_figheight(figure.get_figheight() + 0.19 * math.ceil(len(entries) / columns))
    place = {"loc": "outside lower center", "ncols": columns, "title": note, "title_fontsize": 8}
    figure.legend(list(entries.values()), list(entries), **place).get_title().set_color("#555555")


def _facets(number: int) -> tuple[int, int]:
    """(rows, columns) of facets."""
    columns = number if number <= 3 else math.ceil(number / math.ceil(number / 4))
    return math.ceil(number / columns), columns


# ---- the plots ----------------------------------------------------------------------------------------------------


def pareto(section: Section) -> Figure:
    """Score against trained parameters, with the front of rows that no other beats in both."""
    columns = _shared(section)
    figure, (ax,) = _new(section, "Score against trained parameters", 1, 1, (7.2, 4.2))
    points = [(max(run.parameters["adapter"] for run in row.runs), *row.mean(columns)) for row in section.rows]
    smallest = min((p for p, _, _ in points if p), default=1)
    zero = 10 ** (math.floor(math.log10(smallest)) - 0.5)  # a logarithmic axis has no 0: it gets a place of its own
    styles = _styles(section)
    sized = {style.group for style in styles if sum(other.group == style.group for other in styles) > 1}
    for (parameters, score, spread), s in zip(points, styles, strict=True):
        ax.errorbar(
            parameters or zero, score, yerr=spread, fmt=s.marker, color=s.colour, label=s.group, capsize=3, ms=7
        )
        if s.group in sized:
            offset = {"xytext": (6, 4), "textcoords": "offset points"}
            ax.annotate(s.size, (parameters or zero, score), **offset, fontsize=7, color=s.colour)
    front = [p for p in points if not any(q[0] <= p[0] and q[1] >= p[1] and q[:2] != p[:2] for q in points)]
    front = sorted({(p[0] or zero, p[1]) for p in front if not math.isnan(p[1])})
    if len(front) > 1:
        ax.step(
            *zip(*front, strict=True), where="post", color="#999999", lw=1.2, ls="--", zorder=1, label="Pareto front"
        )
    ax.set_xscale("log")
    largest = max(p for p, _, _ in points) or 10
    decades = [10.0**k for k in range(math.floor(math.log10(smallest)), math.ceil(math.log10(largest)) + 1)]
    has_zero = any(p == 0 for p, _, _ in points)
    ax.set_xticks([zero] * has_zero + decades, ["0"] * has_zero + [f"$10^{{{round(math.log10(d))}}}$" for d in decades])
    ax.minorticks_off()
    ax.set_xlabel("trained adapter parameters, without the head (logarithmic)")
    ax.set_ylabel(_figure_name(columns))
    _legend(figure, [ax], _reading(section))
    return figure


def tasks(section: Section) -> Figure:
    """Every column with all of its seeds (small), its centre and its spread."""
    columns = [c for c in section.benchmark.columns if any(c.key in row.cells for row in section.rows)]
    rows, across = _facets(len(columns))
    figure, axes = _new(section, "Scores", rows, across, (2.9, 0.8 + 0.24 * len(section.rows)))
    styles = _styles(section)
    for number, (ax, column) in enumerate(zip(axes, columns, strict=False)):
        for place, (row, style) in enumerate(zip(section.rows, styles, strict=True)):
            if cell := row.cells.get(column.key):
                _dots(ax, cell, -place, style)
        ax.set_title(column.title)
        shown = [style.label for style in styles] if number % across == 0 else []
        ax.set_yticks([-place for place in range(len(styles))], shown or [""] * len(styles))
        ax.set_ylim(-len(styles) + 0.4, 0.6)
    for ax in axes[len(columns) :]:
        ax.remove()
    note = f"large: {section.benchmark.statistic}; small: each seed; {_reading(section)}"
    figure.supxlabel(note, fontsize=8, color="#555555")
    return figure


def _dots(ax: Axes, cell: Cell, place: float, style: Style) -> None:
    values = [value for value in cell.values() if not math.isnan(value)]
    if len(values) > 1:
        ax.plot(values, [place] * len(values), ".", color=style.colour, alpha=0.45, ms=5, mec="none")
    if not cell.diverged():
        marks = {"fmt": style.marker, "color": style.colour, "capsize": 2.5, "ms": 5.5, "lw": 1.2}
        ax.errorbar(cell.centre(), place, xerr=cell.spread(), **marks)


def _reading(section: Section) -> str:
    """What the bars are, and of how many seeds."""
    counts = sorted({len(cell.runs) for row in section.rows for cell in row.cells.values()})
    if counts[-1] == 1:
        return "one seed, so there is no spread to show"
    return f"bars: standard deviation over the seeds (n-1); n = {counts[0]}" + f" to {counts[-1]}" * (len(counts) > 1)


def curves(section: Section) -> Figure:
    """The dev metric after each epoch: median over the seeds, and the range of the seeds."""
    lengths = {run.task: len(run.epochs) for row in section.rows for run in row.runs if len(run.epochs) > 1}
    names = [task for task in section.benchmark.tasks if task in lengths]
    rows, across = _facets(len(names))
    figure, axes = _new(section, "Dev score after each epoch", rows, across, (2.9, 2.3))
    shown = _few(section)
    for ax, task in zip(axes, names, strict=False):
        for row, style in shown:
            by_epoch: dict[int, list[float]] = {}
            for run in row.by_task.get(task, ()):
                for epoch in run.epochs:
                    if epoch.get(run.metric) is not None:
                        by_epoch.setdefault(epoch["epoch"], []).append(100 * epoch[run.metric])
            x = sorted(by_epoch)
            middle = [statistics.median(by_epoch[k]) for k in x]
            ax.plot(x, middle, style.line, color=style.colour, label=style.label, lw=1.5)
            if any(len(values) > 1 for values in by_epoch.values()):
                low, high = ([pick(by_epoch[k]) for k in x] for pick in (min, max))
                ax.fill_between(x, low, high, color=style.colour, alpha=0.13, lw=0)
        metric = next(run.metric for row in section.rows for run in row.by_task.get(task, ()))
        ax.set_title(section.benchmark.tasks[task].title)
        ax.set_ylabel(section.benchmark.metric_words.get(metric, metric).split(" of ")[0] or metric, fontsize=8)
        ax.xaxis.get_major_locator().set_params(integer=True)
    for ax in axes[len(names) :]:
        ax.remove()
    which = "the largest" if len(section.rows) > 20 else "the smallest and the largest"
    fewer = f"; of several sizes {which}" * (len(shown) < len(section.rows))
    _legend(figure, axes, f"x: epoch; line: median over the seeds; band: their range{fewer}")
    return figure


def rank(section: Section, study: RankStudy) -> Figure:
    """Score against LoRA's rank, a line per choice of adapted matrices."""
    several = section.benchmark.average and len(study.columns) > 1
    facets = [((column,), column.title) for column in study.columns]
    facets += [(study.columns, "Mean")] * several
    rows, across = _facets(len(facets))
    figure, axes = _new(section, "LoRA's rank and adapted matrices", rows, across, (2.9, 2.5))
    colours = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK)
    for ax, (columns, name) in zip(axes, facets, strict=False):
        for number, target in enumerate(study.targets):
            points = [
                (r * 2 ** (0.08 * (number - (len(study.targets) - 1) / 2)), *row.mean(columns))
                for r in study.ranks
                for row in study.rows.get((target, r), ())
            ]
            x, y, spread = zip(*points, strict=True)
            errors = [0 if value is None else value for value in spread]
            ax.errorbar(
                x, y, yerr=errors, fmt=MARKERS[number % len(MARKERS)] + "-", color=colours[number % len(colours)],
                label=target, capsize=2.5, ms=5, lw=1.2,
            )  # fmt: skip
        ax.set_xscale("log", base=2)
        ax.set_xticks(study.ranks, [str(r) for r in study.ranks])
        ax.minorticks_off()
        ax.set_title(name)
    for ax in axes[len(facets) :]:
        ax.remove()
    _legend(figure, axes, f"x: r, logarithmic, points shifted so that bars stay apart; {_reading(section)}")
    return figure
