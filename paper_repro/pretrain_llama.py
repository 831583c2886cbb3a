"""Pretrain the small LLaMA that ships with the project: what instruct.py adapts on a fresh machine.

    python paper_repro/pretrain_llama.py --out modules/embedded/llama                 # as the shipped weights, on a GPU
    python paper_repro/pretrain_llama.py --steps 300 --batch_size 32 --out tried-llama                  # a short try

Its text are skills in a short notation and small talk (`modules/embedded/skills.py`), letter by letter. The folder's
pretraining.json says how its weights were made.
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import sys
from collections.abc import Sequence

from modules.command_line import guarded
from modules.pretraining.settings import LlamaSettings, parse_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    settings = parse_settings(LlamaSettings, __doc__, argv)
    from modules.pretraining.small_llama import pretrain

    return pretrain(settings)


if __name__ == "__main__":
    sys.exit(guarded(main))
