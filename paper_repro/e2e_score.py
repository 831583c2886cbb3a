"""Score any system on the E2E challenge (or any set of its form) with its five official metrics.

    python paper_repro/e2e_score.py testset_w_refs.csv outputs.csv
    python paper_repro/e2e_score.py references.txt outputs.txt --json
    python paper_repro/e2e_score.py --runs results --data_dir E2E_CSVS     # finished runs anew, into their result files

The numbers are those of the challenge's own scorer (tuetschek/e2e-metrics, default options), to all four decimals that
it prints: BLEU and NIST of mteval-v13a, METEOR 1.5, ROUGE-L and CIDEr of the COCO caption tools, and as NIST_python the
NIST of its option -p, which the LoRA authors' command has. METEOR needs Java and the extra e2e (pip install
-e ".[e2e]"); without them it stays empty and the others are the same.

REFS     plain text: the references of one input on consecutive lines, a blank line between two inputs (without blank
         lines, one reference per input); or a .csv or .tsv whose header names an input column (mr) and a reference
         column (ref)
OUTPUTS  plain text: one output per line, in the order of the references; or a .csv or .tsv with an input column (mr)
         and an output column (output or ref): then a row's references are those of its input

--runs   scores the outputs of finished runs (runs/<id>/test.txt) with everything that is installed here, writes
         the scores into their result files, with the versions of the scorers, and rebuilds the table: so a run that
         was trained where there was no Java gets its METEOR. Runs that lack no score are passed over, but with --force.
         Outputs that are not a result's own are refused.
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import argparse
import json
import sys
from collections.abc import Sequence

from modules.command_line import Parser, guarded, place
from modules.scores import files, ptb, score
from variants.errors import UserError


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = Parser(__doc__)
    parser.add_argument("refs", metavar="REFS", nargs="?", type=place, help="the references")
    parser.add_argument("outputs", metavar="OUTPUTS", nargs="?", type=place, help="what the system wrote")
    parser.add_argument(
        "--runs", metavar="RESULTS_DIR", type=place, help="score finished runs that lack a score, in place"
    )
    parser.add_argument("--force", action="store_true", help="with --runs: all of them")
    parser.add_argument("--data_dir", help="of the test set, for --runs whose test_references.txt is not there")
    parser.add_argument("--json", action="store_true", help="one JSON object, unrounded; null where a score is missing")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = parse(argv)
    if (options.runs is None) == (options.outputs is None):
        raise UserError("give either REFS and OUTPUTS, or --runs RESULTS_DIR; --help shows examples")
    if options.runs:
        return score_runs(options)
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


def score_runs(options: argparse.Namespace) -> int:
    """Score the finished runs of `--runs`; returns the exit code."""
    from modules.benchmarks.e2e import E2E
    from modules.benchmarks.e2e.rescore import rescore
    from modules.reports.show import show_table

    code = 0
    for line, scored in rescore(options.runs, options.data_dir, options.force):
        print(line, file=sys.stdout if scored else sys.stderr, flush=True)
        code = code if scored else 1
    return max(code, show_table(str(options.runs), benchmark=E2E))


if __name__ == "__main__":
    sys.exit(guarded(main))
