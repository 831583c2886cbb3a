"""Trainable parameters of every published row, counted on models without weights.

    python paper_repro/params.py                        all rows
    python paper_repro/params.py --model gpt3-175b      one model's
    python paper_repro/params.py --remarks              with what explains the rows that do not follow
    python paper_repro/params.py --json > params.json   everything, for other programs

Each model is built from its configuration on the meta device, which has shapes and no memory: nothing is downloaded.
The prints, their sources and the arithmetic are in paper_repro/published/parameters.yaml.
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

from modules.command_line import Parser, guarded


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = Parser(__doc__)
    parser.add_argument("--model", help="only this model's rows, such as gpt3-175b")
    parser.add_argument("--table", help="only rows whose table has this in its name, such as 'VeRA, Table 1'")
    parser.add_argument("--bf16", action="store_true", help="frozen weights take 2 bytes each (default: fp32, 4)")
    parser.add_argument("--remarks", action="store_true", help="print the remarks of rows that follow too")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = parse(argv)
    from modules.reports.papers.parameter_counts import as_text, chosen_rows, count_all, published_counts

    models, rows = published_counts()
    counted = count_all(models, chosen_rows(rows, options.model, options.table), 2 if options.bf16 else 4)
    if options.json:
        print(json.dumps([dataclasses.asdict(row) for row in counted], indent=1))
    else:
        print(as_text(counted, options.remarks))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
