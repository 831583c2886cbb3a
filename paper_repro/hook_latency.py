"""The cost of hooks: the same LoRA by forward hooks, as this project attaches it, and by replaced modules.

    python paper_repro/hook_latency.py
    python paper_repro/hook_latency.py --device cuda --out results/latency/hooks-cuda.json

Models take turns within each round. Figures are ratios to the replaced modules: 1.00 means that hooks cost nothing. In
the result file ``no-op hooks`` return their input, and ``bare`` is the plain model.

Acceleration is for training alone: this measures the plain path of the hooks, with and without --reference.
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
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    parser.add_argument("--rounds", type=int, default=60, help="(default: 60)")
    parser.add_argument("--reference", action="store_true", help="the plain path, which is measured in any case")
    parser.add_argument("--out", type=place, default=Path("results/latency/hooks.json"), help="(default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = parse(argv)
    from modules.efficiency.inference.hook_latency import run

    return run(options.device, options.rounds, options.out)


if __name__ == "__main__":
    sys.exit(guarded(main))
