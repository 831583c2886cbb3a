"""GLUE, end to end: trains and scores a variant, and shows the papers' rows next to it.

    python paper_repro/glue.py --variant lora --r 8                   what fits this machine
    python paper_repro/glue.py --preset paper --tasks cola            RoBERTa-base on GLUE, as the paper

``--help`` lists every flag; ``--variant dora --help`` those of another variant.
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import sys
from collections.abc import Sequence

from modules.benchmarks.glue import GLUE
from modules.experiments import command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return command.main(list(sys.argv[1:] if argv is None else argv), GLUE)


if __name__ == "__main__":
    sys.exit(main())
