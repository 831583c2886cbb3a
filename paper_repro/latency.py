"""What a variant costs when the model is used: the LoRA paper's Table 1, measured in one run.

    python paper_repro/latency.py                                     GPT-2 medium's shape on this machine
    python paper_repro/latency.py --device cuda                       the settings of Table 1, 100 rounds
    python paper_repro/latency.py --draw results/latency/gpt2-medium-cuda.json      the figure of a result file, anew
    python paper_repro/latency.py --model roberta-base --variants lora,dora,adapter_p --settings 1x128x0.3M,32x128x0.3M

One forward pass of random text through a model with random weights: neither changes the time, and nothing is
downloaded. Each variant has the size nearest to the setting's number of trained parameters, and values away from its
start. Models take turns within each round, and figures are ratios to the plain model in the same round: median and
quartiles. "plain, a copy" is the plain model in other memory: its distance from 1 is noise. A merged LoRA is measured
as merge() leaves it, with inactive hooks; the folder that python -m variants.merge writes is a plain model.

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
    add = parser.add_argument
    add("--model", default="gpt2-medium", help="shape of params.py, folder, embedded or Hub id (default: gpt2-medium)")
    add("--variants", default="lora,adapter_h,adapter_l", help="comma list (default: lora,adapter_h,adapter_l)")
    add(
        "--settings",
        help="comma list of BATCHxLENGTHxPARAMETERS (default on a GPU: those of Table 1)",
    )
    add("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    add(
        "--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="of the model (default: float32)"
    )
    add("--rounds", type=int, help="(default: 100 on a GPU, as in the paper, else 12)")
    add("--out", type=place, default=Path("results/latency"), help="folder (default: results/latency)")
    add("--reference", action="store_true", help="the plain path, which is measured in any case")
    add("--no_plots", action="store_true", help="no figure, and no need of matplotlib")
    add(
        "--draw", type=place, metavar="JSON", help="draw the figure of this result file next to it, and measure nothing"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = parse(argv)
    from modules.efficiency.inference.latency import run

    return run(options)


if __name__ == "__main__":
    sys.exit(guarded(main))
