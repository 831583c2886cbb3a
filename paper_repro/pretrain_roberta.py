"""Pretrain the small RoBERTa that ships with the project, by masked language modelling on the embedded corpus.

    python paper_repro/pretrain_roberta.py --out modules/embedded/roberta         # as the shipped weights were made
    python paper_repro/pretrain_roberta.py --steps 300 --documents 20000 --out /tmp/roberta       # a short try

Some documents (--hide) drop the discourse word between their sentences, and <s> has to predict it. So <s>, which the
task heads read, learns about sentences and pairs. A training that was killed continues where it was.
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import sys
from collections.abc import Sequence

from modules.command_line import guarded
from modules.pretraining.settings import MaskedSettings, parse_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    settings = parse_settings(MaskedSettings, __doc__, argv)
    from modules.pretraining.masked_lm import pretrain

    return pretrain(settings)


if __name__ == "__main__":
    sys.exit(guarded(main))
