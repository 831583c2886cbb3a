"""Write a W&B workspace and a W&B report for a project's runs: scores, costs, what adapters learn, tables.

    python paper_repro/dashboard.py                                   your project lora-variants, tables of results/
    python paper_repro/dashboard.py --entity my-team --project glue   another one
    python paper_repro/dashboard.py --plan                            list the panels; needs no login

The workspace groups runs by the row of the table, so that lines and bars are means over seeds. The report has the
tables and differences of the result files above the same panels. A second call changes what the first one saved
(addresses are kept in RESULTS_DIR/dashboard.json). Runs that were recorded offline come first: `wandb sync`. Needs
wandb-workspaces: pip install 'lora-variants[dashboard]'.
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.command_line import Parser, guarded, place


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--entity", default=os.environ.get("WANDB_ENTITY"), help="user or team (default: $WANDB_ENTITY, else yours)")
    project = os.environ.get("WANDB_PROJECT", "lora-variants")
    add("--project", default=project, help="of the runs (default: $WANDB_PROJECT, else lora-variants)")
    add("--name", default="Methods compared", help="of workspace and report (default: Methods compared)")
    add("--results_dir", type=place, default=Path("results"), help="whose tables the report has (default: results)")
    add("--only", choices=("workspace", "report"), help="one of the two")
    add("--plan", action="store_true", help="save nothing: list the tables and panels")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = parse(argv)
    from modules.reports.dashboard.save import PARTS, listed, save, tables

    parts = [options.only] if options.only else list(PARTS)
    texts = tables(options.results_dir) if "report" in parts else {}
    if options.plan:
        print(listed(parts, texts))
        return 0
    if "report" in parts and not texts:
        print(f"no results under {options.results_dir}: the report has panels alone", file=sys.stderr)
    saved = save(parts, options.entity, options.project, options.name, options.results_dir, texts)
    for part, address in saved.items():
        print(f"{part}: {address}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
