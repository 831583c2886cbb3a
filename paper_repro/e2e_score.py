"""Score any system on the E2E challenge (or any set of its form) with its five official metrics.

    python paper_repro/e2e_score.py testset_w_refs.csv outputs.csv
    python paper_repro/e2e_score.py references.txt outputs.txt --json

The numbers are those of the challenge's own scorer (tuetschek/e2e-metrics, default options), to all four decimals that
it prints: BLEU and NIST of mteval-v13a, and METEOR 1.5, ROUGE-L and CIDEr of the COCO caption tools. METEOR needs Java
and the extra e2e (pip install -e ".[e2e]"); without them it stays empty and the others are the same.

REFS     plain text: the references of one input on consecutive lines, a blank line between two inputs (without blank
         lines, one reference per input); or a .csv or .tsv whose header names an input column (mr) and a reference
         column (ref)
OUTPUTS  plain text: one output per line, in the order of the references; or a .csv or .tsv with an input column (mr)
         and an output column (output or ref): then a row's references are those of its input
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from modules.cli import guarded
from modules.scores import files, ptb, score


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("refs", metavar="REFS", type=Path, help="the references")
    parser.add_argument("outputs", metavar="OUTPUTS", type=Path, help="what the system wrote")
    parser.add_argument("--json", action="store_true", help="one JSON object, unrounded; null where a score is missing")
    return parser.parse_args()


def main() -> int:
    options = parse()
    outputs, references = files.read(options.refs, options.outputs)
    values, missing = score(outputs, references)
    if options.json:
        print(json.dumps(values | {"inputs": len(outputs), "tokenizer": ptb.in_use(), "missing": missing}))
        return 0
    for name, value in values.items():
        print(f"{name}: {'' if value is None else f'{value:.4f}'}".rstrip())
    for line in missing.values():
        print(line, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
