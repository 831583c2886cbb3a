"""Image models, end to end: adapts one to a style or a subject from a few pictures, and scores what it paints.

    python paper_repro/dreambooth.py --variant lora --r 8                     what fits this machine
    python paper_repro/dreambooth.py --data PICTURES --model FOLDER           your own pictures
    python paper_repro/dreambooth.py --combine style.yaml                     style, character, and both

``--help`` lists every flag; ``--variant dora --help`` those of another variant.
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import sys
from collections.abc import Sequence

from modules.benchmarks.dreambooth import DREAMBOOTH
from modules.command_line import guarded
from modules.experiments import command
from modules.experiments.flags import taken
from variants.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    rest, files = taken(words, "combine")
    if not files:
        return command.main(words, DREAMBOOTH)

    def combine() -> int:
        if rest or len(files) > 1:
            raise UserError("--combine FILE goes alone: the file says which runs, prompts and strengths")
        from modules.inference.combined_pictures import combined

        return combined(files[0])

    return guarded(combine)


if __name__ == "__main__":
    sys.exit(main())
