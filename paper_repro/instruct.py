"""Instruction tuning, end to end: trains a causal language model with a variant and scores its answers.

    python paper_repro/instruct.py --variant lora --r 16                      what fits this machine
    python paper_repro/instruct.py --data my.jsonl --model FOLDER             your own instructions
    python paper_repro/instruct.py --tasks commonsense --data_dir LLM_DATA --model FOLDER

``--help`` lists every flag; ``--variant dora --help`` those of another variant.
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import sys
from collections.abc import Sequence

from modules.benchmarks.instruct import INSTRUCT
from modules.experiments import command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return command.main(list(sys.argv[1:] if argv is None else argv), INSTRUCT)


if __name__ == "__main__":
    sys.exit(main())
