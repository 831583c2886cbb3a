"""Decode the test set of a finished E2E run again, with other search settings and without training again.

    python paper_repro/e2e_decode.py results/runs/0123456789ab --length_penalty 0.8 --out outputs.txt
    python paper_repro/e2e_decode.py results/runs/0123456789ab --beams 1 --epoch last --json

Settings that are not given are the run's. The scores are printed, and recorded in W&B as the run was; the outputs are
written to --out. The run's result file stays as it is, since its figures are of its own settings.
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import argparse
import json
import sys
from collections.abc import Sequence

from modules.benchmarks.e2e import E2E
from modules.benchmarks.e2e.settings import SEARCH
from modules.command_line import Parser, guarded, place
from modules.runs.tracking import MODES
from variants.atomic import write_atomic
from variants.convert import VARIANT_HELP


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = Parser(__doc__)
    parser.add_argument("run", type=place, help="the folder of a finished run, with its adapters")
    for name in SEARCH:
        setting = E2E.settings.flags()[name]
        parser.add_argument(f"--{name}", type=setting.kind, help=f"{setting.help} (default: the run's)")
    parser.add_argument("--epoch", choices=("best", "last"), help="whose weights (default: the run's score_epoch)")
    parser.add_argument("--data_dir", help="the run's data, if they have been moved")
    parser.add_argument("--model", help="the run's backbone, if it has been moved")
    parser.add_argument("--variant", metavar="FILE:CLASS", help=VARIANT_HELP)
    parser.add_argument("--reference", action="store_true", help="switch all acceleration off")
    parser.add_argument("--wandb", choices=MODES, help="record the decoding in W&B (default: as the run was)")
    parser.add_argument("--out", type=place, help="file for the outputs, one per line")
    parser.add_argument("--json", action="store_true", help="one JSON object, unrounded; null where a score is missing")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = parse(argv)
    given = {name: getattr(options, name) for name in SEARCH if getattr(options, name) is not None}
    from modules.benchmarks.e2e.redecode import redecode
    from modules.scores import score

    outputs, references, settings = redecode(
        options.run, given, options.epoch, options.data_dir, options.model, options.reference, options.variant
    )

    if options.out:
        write_atomic(options.out, "\n".join(outputs) + "\n")
    values, missing = score(outputs, references)
    from modules.experiments.dashboards import decoded

    shown = [(output, group[0]) for output, group in zip(outputs[:20], references, strict=False)]
    lines = decoded(options.run, options.wandb, settings, values, shown)
    if options.json:
        print(json.dumps(values | {"inputs": len(outputs), "settings": settings, "missing": missing}))
        return 0
    print(", ".join(f"{name} {value:g}" for name, value in settings.items() if name != "decode_s"))
    for name, value in values.items():
        print(f"{name}: {'' if value is None else f'{value:.4f}'}".rstrip())
    for line in missing.values():
        print(line, file=sys.stderr)
    for line in lines:
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
