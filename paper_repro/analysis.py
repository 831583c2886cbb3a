"""Why low rank works (LoRA paper, section 7): the directions that runs share, and what their updates amplify.

    python paper_repro/analysis.py RUN RUN [RUN ...]
    python paper_repro/analysis.py 1a2b3c4d5e6f 6f5e4d3c2b1a --results_dir results --out results/analysis/cola

A RUN is a run's id, its folder, or an adapter folder. For each pair: the subspace similarity φ(i, j) of eq. 4 between
the first i directions of one run and the first j of the other, at every site, as a table and heat maps (Figures 3 and
4), with the same before training and of random matrices. For each run: the norms of Table 7, if its backbone is found.

Directions are right singular vectors of A, as in the paper, if all runs have an A (LoRA, DoRA), else of ΔW. Runs of the
same seed start from the same first rows of A: compare runs of different seeds, or look at the column "at the start".
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.command_line import Parser, guarded, place
from variants.convert import VARIANT_HELP


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("runs", metavar="RUN", nargs="+", help="id of a run, its folder, or an adapter folder")
    add("--results_dir", type=place, default=Path("results"), help="where ids are looked up (default: results)")
    add("--which", choices=("best", "last"), default="best", help="adapter of a run (default: best)")
    add("--of", choices=("A", "delta"), help="whose directions (default: A if all runs have one, else delta, ΔW)")
    add("--model", help="the runs' backbone, if it has been moved: folder, Hub id or embedded")
    add("--variant", metavar="FILE:CLASS", help=VARIANT_HELP)
    add("--out", type=place, help="folder (default: results/analysis/RUN_RUN...)")
    add("--no_plots", action="store_true", help="no heat maps, and no need of matplotlib")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = parse(argv)
    from modules.analysis.compare_runs import analyse

    names, results_dir, plots = options.runs, options.results_dir, not options.no_plots
    files = analyse(names, results_dir, options.which, options.of, options.model, options.out, plots, options.variant)
    print("written:", *files)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
