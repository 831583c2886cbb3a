"""What training a model on a base in few bits takes of a GPU's memory: QLoRA's claim, measured.

    python paper_repro/memory.py --shapes 7b,13b,33b                            LLaMA's, nf4-dq, LoRA r 64 on all maps
    python paper_repro/memory.py --shapes 65b --cap 48 --optimizer paged-adamw  the allocator gives 48 GB; AdamW's state
                                                                                lies with the host where that is full
    python paper_repro/memory.py --shapes 175b                                  GPT-3's shape: an H200 (141 GB)
    python paper_repro/memory.py --shapes tiny                                  the same in small, on a CPU

Weights are random, drawn and quantised one matrix at a time on the GPU: nothing is downloaded, and no dense model is
ever there. Then a few real training steps are taken, of one row, with gradient checkpointing. A shape that is in the
result file already is not measured again. Needs bitsandbytes (pip install -e ".[quant]").
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.command_line import Parser, guarded, place
from variants.schemes import SCHEMES


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add(
        "--shapes",
        type=lambda text: tuple(text.split(",")),
        default=("tiny",),
        help="comma list of tiny, 7b, 13b, 33b, 65b, 175b (default: tiny)",
    )
    add("--quantise", choices=SCHEMES, default="nf4-dq", help="how the base is kept (default: nf4-dq)")
    add(
        "--optimizer",
        choices=("adamw", "paged-adamw", "paged-adamw-8bit"),
        default="adamw",
        help="torch's AdamW, or bitsandbytes' paged ones (default: adamw)",
    )
    add("--tokens", type=int, default=512, help="of the row (default: 512)")
    add("--steps", type=int, default=3, help="training steps (default: 3)")
    add("--cap", type=float, metavar="GB", help="the most memory that the allocator gives")
    add("--reference", action="store_true", help="without acceleration, which takes more memory")
    add("--device", help="cuda, cuda:1, cpu (default: a GPU where there is one)")
    add("--out", type=place, default=Path("results/memory"), help="folder (default: results/memory)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = parse(argv)
    from variants.schemes import check_installed

    check_installed()
    from modules.efficiency.memory.report import run

    return run(options)


if __name__ == "__main__":
    sys.exit(guarded(main))
