"""One HTML page of a results folder: what was run, tables to sort and filter, charts, published rows beside.

    python paper_repro/report.py                           results/report.html
    python paper_repro/report.py DIR                       DIR/report.html
    python paper_repro/report.py DIR --out page.html       another file; links to result files work in DIR alone
    python paper_repro/report.py DIR --open                and open it in the browser

The page needs no server and no network: it can be sent by mail. Every command that trains writes it too.
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.command_line import Parser, guarded, place


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = Parser(__doc__)
    parser.add_argument("results_dir", nargs="?", type=place, default=Path("results"), metavar="DIR")
    parser.add_argument("--out", type=place, help="the page's file (default: DIR/report.html)")
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = parse(argv)
    from modules.reports.html.write import write_report

    path = write_report(options.results_dir, options.out)
    print(f"report: {path}")
    if options.open:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
