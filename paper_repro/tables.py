"""Rebuild tables and plots from result files and published figures alone.

    python paper_repro/tables.py                     every folder of results/reference that has runs, and results/
    python paper_repro/tables.py DIR [DIR ...]       these results folders
    python paper_repro/tables.py --check             change nothing; exit code 1 where a shipped table would change

A folder's tables are DIR/tables: for each benchmark Markdown, CSV, LaTeX and the differences between rows, and plots as
PNG and SVG. The papers' tables with our rows (lora-2.md, ...) are in results/reference/papers, from all reference
results together, and in DIR/tables/papers for results/ and for a folder that is named. The same files give the same
bytes. Plots need matplotlib (pip install 'lora-variants[plots]'); without it everything else is written.
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import argparse
import sys
from collections.abc import Sequence

from modules.command_line import Parser, guarded, place


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command's arguments."""
    parser = Parser(__doc__)
    parser.add_argument("folders", nargs="*", type=place, metavar="DIR", help="results folders (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a file would change")
    parser.add_argument("--no_plots", action="store_true", help="the text tables alone")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = parse(argv)
    from modules.reports.rebuild import rebuild

    return rebuild(options.folders, options.check, not options.no_plots)


if __name__ == "__main__":
    sys.exit(guarded(main))
