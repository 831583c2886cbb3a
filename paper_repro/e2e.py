"""E2E NLG, end to end: trains and scores a variant, and shows the papers' rows next to it.

    python paper_repro/e2e.py --variant lora --r 4                    what fits this machine
    python paper_repro/e2e.py --preset paper --seeds 0,1,2            GPT-2 medium on E2E, as the paper

``--help`` lists every flag; ``--variant dora --help`` those of another variant.
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import sys
from collections.abc import Sequence

from modules.benchmarks.e2e import E2E
from modules.experiments import command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return command.main(list(sys.argv[1:] if argv is None else argv), E2E)


if __name__ == "__main__":
    sys.exit(main())
