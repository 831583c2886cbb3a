"""Pretrain a GPT-2 by next-token prediction: the small one that ships with the project, or one on your own text files.

    python paper_repro/pretrain_gpt2.py --out modules/embedded/gpt2              # as the shipped weights were made
    python paper_repro/pretrain_gpt2.py --steps 100 --out tried-gpt2             # a short try
    python paper_repro/pretrain_gpt2.py --text a.txt.gz,b.txt --bpe FOLDER --layers 8 --hidden 512 --heads 8 \\
        --positions 512 --length 512 --batch_size 64 --lr 1e-3 --minutes 5 --out FOLDER               # on a GPU
    python paper_repro/pretrain_gpt2.py ... --steps 2200 --deterministic --out FOLDER                 # the same weights

Without --text the corpus is `modules/embedded/prose.py`, endless, with a word-level tokenizer. With it, --bpe names a
folder with the tokenizer files of GPT-2 (vocab.json and merges.txt, or tokenizer.json). Documents are separated by the
end token and packed into rows of --length tokens; one document in 200 is held out, and its loss reported. Tokens are
made by all cores and kept for the next call. The folder's pretraining.json says how its weights were made.
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import sys
from collections.abc import Sequence

from modules.command_line import guarded
from modules.pretraining.settings import GPT2Settings, parse_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    settings = parse_settings(GPT2Settings, __doc__, argv)
    from modules.pretraining.causal_lm import pretrain

    return pretrain(settings)


if __name__ == "__main__":
    sys.exit(guarded(main))
