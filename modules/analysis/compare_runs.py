"""The analysis of several runs: directions, similarities of all pairs, tables and heat maps as files."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from modules.analysis.adapter_directions import Place, directions, find
from modules.analysis.heat_maps import draw
from modules.analysis.report import amplification_rows, as_csv, as_markdown, similarity_rows
from modules.analysis.similarity import compare
from modules.reports.plots.image_files import FORMATS, require_matplotlib
from variants.atomic import write_atomic
from variants.errors import UserError


def analyse(
    names: Sequence[str],
    results_dir: Path,
    which: str = "best",
    of: str | None = None,
    model: str | None = None,
    out: Path | None = None,
    plots: bool = True,
    variant: str | None = None,
) -> list[Path]:
    """Compare runs, print the tables, and write them with their heat maps.

    Args:
        names, results_dir, which, variant: of the runs, as in `adapter_directions.find`.
        of: "A" or "delta"; by default "A" if all runs have one.
        model: the runs' backbone, where it has been moved since.
        out: folder of the files; by default results/analysis/RUN_RUN...

    Returns:
        The files.

    Raises:
        UserError, VariantError: a run is not there, has no directions, or is named twice; matplotlib is not installed.
    """
    if plots:
        require_matplotlib()
    places = [find(name, results_dir, which, variant) for name in names]
    if len({place.adapter.resolve() for place in places}) < len(places):
        raise UserError(f"a run is named twice: {' '.join(names)}")
    of = _matrix(places, of)
    runs = [directions(place, of, model) for place in places]
    pairs = [compare(a, b) for a, b in itertools.combinations(runs, 2)]
    out = out or Path("results/analysis") / "_".join(place.name for place in places)
    tables = {out / "analysis.md": as_markdown(runs, pairs, of, plots)}
    if pairs:
        tables[out / "similarity.csv"] = as_csv(row for pair in pairs for row in similarity_rows(pair))
    if any(run.amplified for run in runs):
        tables[out / "amplification.csv"] = as_csv(row for run in runs for row in amplification_rows(run))
    for path, text in tables.items():
        write_atomic(path, text)
    written = list(tables)
    for pair in pairs if plots else ():
        draw(out / pair.name, pair)
        written += [out / f"{pair.name}.{kind}" for kind in FORMATS]
    print(tables[out / "analysis.md"])
    return written


def _matrix(places: Sequence[Place], wanted: str | None) -> str:
    """The matrix whose directions are compared: "A" or "delta"."""
    without = [place.name for place in places if not place.has_A]
    if wanted == "A" and without:
        raise UserError(f"--of A: {without[0]} has no A; leave --of out, or give --of delta")
    if without and not wanted:
        print(f"directions of ΔW, because {without[0]} has no A")
    return wanted or ("delta" if without else "A")
