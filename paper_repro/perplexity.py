"""What a language model loses with its weights in few bits: perplexity, the form of QLoRA's Table 2.

    python paper_repro/perplexity.py                                               the project's small GPT-2 and LLaMA
    python paper_repro/perplexity.py --model FOLDER --text wikitext2_test.txt.gz   another model, any text file
    python paper_repro/perplexity.py --model FOLDER,FOLDER --text FILE --rows 64   several, and the mean over them
    python paper_repro/perplexity.py --quantise bf16,nf4,nf4-dq                    some ways to keep weights

Weights are kept as bf16, fp16, int8, 4-bit integers, 4-bit floating point and NF4, with and without double
quantisation. No adapter, no training: the frozen base alone. What is in the result file already is not measured again.
Needs bitsandbytes (pip install -e ".[quant]").
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.command_line import Parser, guarded, place

WAYS = "bf16,fp16,int8,int4,int4-dq,fp4-e2m1,fp4-e3m0,fp4,fp4-dq,nf4,nf4-dq"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = Parser(__doc__)
    add = parser.add_argument

    def names(text: str) -> tuple[str, ...]:
        return tuple(text.split(","))

    add(
        "--model",
        type=names,
        default=("embedded-gpt2", "embedded-llama"),
        help="comma list of folders, Hub ids, embedded-gpt2, embedded-llama (default: those two)",
    )
    add("--text", default="embedded", help="a text file, .gz too (default: embedded, for the embedded models)")
    add("--quantise", type=names, default=names(WAYS), help=f"comma list of {WAYS} (default: all)")
    add("--length", type=int, help="tokens of a row (default: 1024, of embedded text 128)")
    add("--rows", type=int, help="so many rows, spread evenly over the text (default: all)")
    add("--batch_size", type=int, default=1, help="rows at once (default: 1)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of products (default: float32)")
    add("--device", help="cuda, cuda:1, cpu (default: a GPU where there is one)")
    add("--out", type=place, default=Path("results/perplexity"), help="folder (default: results/perplexity)")
    add("--no_plots", action="store_true", help="no picture, and no need of matplotlib")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = parse(argv)
    from modules.analysis.perplexity.report import run

    return run(options)


if __name__ == "__main__":
    sys.exit(guarded(main))
