"""Why low rank works (LoRA paper, section 7): which directions two runs share, and what their updates amplify.

    python paper_repro/analysis.py RUN RUN [RUN ...]
    python paper_repro/analysis.py 1a2b3c4d5e6f 6f5e4d3c2b1a --results_dir results --out results/analysis/cola

A RUN is a run's id, its folder, or an adapter folder. For each pair: the subspace similarity φ(i, j) of eq. 4 between
the first i directions of one run and the first j of the other, at every site, as a table and heat maps (Figures 3 and
4), beside the same before training and of random matrices. For each run: the norms of Table 7, where its backbone is.

Directions are right singular vectors of A, as in the paper, if all runs have an A (LoRA, DoRA), else of ΔW. Runs of one
seed start from the same first rows of A: compare runs of different seeds, or see by "at the start" what the seed gives.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

from modules.analysis.report import amplification_rows, as_csv, as_markdown, compare, draw, similarity_rows
from variants.atomic import write_atomic
from variants.errors import UserError

# ---- command -----------------------------------------------------------------------------------------------


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("runs", metavar="RUN", nargs="+", help="id of a run, its folder, or an adapter folder")
    add("--results_dir", type=Path, default=Path("results"), help="where ids are looked up (default: results)")
    add("--which", choices=("best", "last"), default="best", help="adapter of a run (default: best)")
    add("--of", choices=("A", "delta"), help="whose directions (default: A if all runs have one, else delta, ΔW)")
    add("--model", help="the runs' backbone, where it is not where it was: folder, Hub id or embedded")
    add("--out", type=Path, help="folder (default: results/analysis/RUN_RUN...)")
    add("--no_plots", action="store_true", help="no heat maps, and no need of matplotlib")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    from modules.analysis.adapter_directions import directions, find
    from modules.reports.plots.image_files import require_matplotlib

    if not options.no_plots:
        require_matplotlib()
    places = [find(run, options.results_dir, options.which) for run in options.runs]
    if len({place.adapter.resolve() for place in places}) < len(places):
        raise UserError(f"a run is named twice: {' '.join(options.runs)}")
    without = [place.name for place in places if not place.has_A]
    if options.of == "A" and without:
        raise UserError(f"--of A: {without[0]} has no A; leave --of out, or give --of delta")
    of = options.of or ("delta" if without else "A")
    if without and not options.of:
        print(f"directions of ΔW, because {without[0]} has no A")
    runs = [directions(place, of, options.model) for place in places]
    pairs = [compare(a, b) for a, b in itertools.combinations(runs, 2)]
    out = options.out or Path("results/analysis") / "_".join(place.name for place in places)
    text, written = as_markdown(runs, pairs, of, not options.no_plots), [out / "analysis.md"]
    if pairs:
        written.append(out / "similarity.csv")
        write_atomic(written[-1], as_csv(row for pair in pairs for row in similarity_rows(pair)))
    if any(run.amplified for run in runs):
        written.append(out / "amplification.csv")
        write_atomic(written[-1], as_csv(row for run in runs for row in amplification_rows(run)))
    for pair in () if options.no_plots else pairs:
        draw(out / pair.name, pair)
        written += [out / f"{pair.name}.{kind}" for kind in ("png", "svg")]
    write_atomic(written[0], text)
    print(text)
    print("written:", *written)
    return 0


if __name__ == "__main__":
    from modules.command_line import guarded

    sys.exit(guarded(main))
