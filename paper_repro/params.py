"""Trainable parameters of every published row, counted on models without weights.

    python paper_repro/params.py                        all rows
    python paper_repro/params.py --model gpt3-175b      one model's
    python paper_repro/params.py --remarks              with what explains the rows that do not follow
    python paper_repro/params.py --json > params.json   everything, for other programs

Each model is built from its configuration on the meta device, which has shapes and no memory: nothing is downloaded.
The prints, their sources and the arithmetic are in paper_repro/published/parameters.yaml.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from modules.reports.parameter_counts import PUBLISHED, build, count, published, text


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", help="only this model's rows, such as gpt3-175b")
    parser.add_argument("--table", help="only rows whose table has this in its name, such as 'VeRA, Table 1'")
    parser.add_argument("--bf16", action="store_true", help="frozen weights take 2 bytes each (default: fp32, 4)")
    parser.add_argument("--remarks", action="store_true", help="print the remarks of rows that follow too")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    from variants.errors import UserError

    models, rows = published()
    known = dict.fromkeys(row.model for row in rows)
    if options.model and options.model not in known:
        raise UserError(f"--model {options.model!r} is none of {', '.join(known)}")
    chosen = [row for row in rows if not options.model or row.model == options.model]
    if options.table:
        chosen = [row for row in chosen if any(options.table in name for name in (row.table, *row.also))]
    if not chosen:
        raise UserError(f"no row is of --table {options.table!r}; see {PUBLISHED}")
    built: dict[str, Any] = {}
    counted = []
    for row in chosen:
        if row.model not in built:
            built[row.model] = build(models[row.model])
        counted.append(count(row, built[row.model], 2 if options.bf16 else 4))
    print(
        json.dumps([dataclasses.asdict(row) for row in counted], indent=1)
        if options.json
        else text(counted, options.remarks)
    )
    return 0


if __name__ == "__main__":
    from modules.command_line import guarded

    sys.exit(guarded(main))
