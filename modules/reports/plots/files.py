"""The plots of a table's sections as PNG and SVG files.

The same data give the same bytes: files have no date and no version. Instead, each has a stamp of the data that it
shows and of `DRAWING`, so that an up-to-date plot is recognised without drawing it. matplotlib is imported only when a
plot is drawn.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from modules.reports.plots import image_files
from modules.reports.plots.curves import curves
from modules.reports.plots.drift import drift, has_drift
from modules.reports.plots.layout import summed_columns
from modules.reports.plots.pareto import beneath, heights, pareto
from modules.reports.plots.rank import rank
from modules.reports.plots.rates import rates
from modules.reports.plots.scores import scores
from modules.reports.tables.cells import title
from modules.reports.tables.rank_study import find
from modules.reports.tables.section import Section, short_name
from variants.atomic import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWING = 3
"""Version of the drawing code. Raise it with every change after which the same data give another picture: all pictures
are then drawn anew by `python paper_repro/tables.py`. A change of names or files alone leaves it as it is."""

Draw = Callable[[Section], "Figure"]


def plots(section: Section) -> dict[str, Draw]:
    """The plots that a section has data for, by the name in their files."""
    found: dict[str, Draw] = {}
    if summed_columns(section):
        found["pareto"] = pareto
    if any(len(cell.runs) for row in section.rows for cell in row.cells.values()):
        found["tasks"] = scores
    if any(row.by_epoch(task) for row in section.rows for task in row.by_task):
        found["curves"] = curves
    if has_drift(section):
        found["drift"] = drift
    if section.curves:
        found["rates"] = rates
    if find(section):
        found["rank"] = lambda section: rank(section, find(section)[0])
    return found


def write_plots(folder: str | Path, sections: Sequence[Section], kind: str | None = None) -> list[Path]:
    """Draw every plot of the sections whose files are not up to date, and return the files of all plots.

    Args:
        kind: of this name in `plots` alone.

    Raises:
        UserError: matplotlib is needed and not installed, or the disk is full.
    """
    paths = []
    for section, name, stamp in _named(sections):
        if kind not in (None, name.split("-")[1]):
            continue
        files = [Path(folder) / f"{name}.{form}" for form in image_files.FORMATS]
        paths += files
        if any(not is_fresh(path, stamp) for path in files):
            draw = plots(section)[name.split("-")[1]]
            for path, content in zip(files, drawn(draw, section, stamp), strict=True):
                write_atomic(path, content)
    return paths


def stale_plots(folder: str | Path, sections: Sequence[Section]) -> list[Path]:
    """The files that `write_plots` would draw. Needs no matplotlib."""
    files = [
        (Path(folder) / f"{name}.{kind}", stamp) for _, name, stamp in _named(sections) for kind in image_files.FORMATS
    ]
    return [path for path, stamp in files if not is_fresh(path, stamp)]


def _named(sections: Sequence[Section]) -> list[tuple[Section, str, str]]:
    """(section, file name without its ending, stamp) of every plot; from the second section on the name has its
    backbone and data."""
    found = []
    for number, section in enumerate(sections):
        place = re.sub(r"\W+", "-", f"{short_name(section.backbone['name'])} {section.data['name']}").strip("-").lower()
        ending = f"-{place}" if number else ""
        texts = [run.to_json() for row in section.rows for run in row.runs]  # once for all plots
        for name in plots(section):
            found.append((section, f"{section.benchmark.name}-{name}{ending}", _stamp(section, name, texts)))
    return found


def _stamp(section: Section, name: str, texts: Sequence[str]) -> str:
    """Of what the plot shows.

    Args:
        texts: of the runs of the section's rows.
    """
    shown = [title(section), *texts]
    if name == "rank":  # once drawn without levels, and with one mark for all targets beside other methods
        shown += sorted({row.variant for row in section.rows} - {"lora"})
    if name == "pareto" and (high := heights(section)) > 1:  # once drawn no higher than others
        shown += [str(high)]
    if name == "pareto" and (number := beneath(section)) > 1:  # once drawn one over the other
        shown += [f"{number} side by side"]
    if name == "rates":
        shown += [run.to_json() for curve in section.curves for run in curve.runs]
    shown += [json.dumps(asdict(row), sort_keys=True) for row in section.published]
    text = "\n".join([*shown, *(row.label for row in section.rows), f"drawing {DRAWING}"])
    return "shows " + hashlib.sha256(text.encode()).hexdigest()[:32]


def is_fresh(path: Path, stamp: str) -> bool:
    """Whether the file exists and has this stamp."""
    return path.is_file() and stamp.encode() in path.read_bytes()


def drawn(draw: Draw, section: Section, stamp: str) -> list[bytes]:
    """The plot's bytes in each of `image_files.FORMATS`."""
    changes = {
        "font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "grid.color": "#dddddd", "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False,
        "figure.dpi": 100, "svg.fonttype": "path",
    }  # fmt: skip
    with image_files.style(**changes):
        return image_files.encoded(draw(section), stamp, dpi=160, bbox_inches="tight")
