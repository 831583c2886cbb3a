"""Pretrain the small image models that ship with the project, a transformer and a UNet, which dreambooth.py adapts.

    python paper_repro/pretrain_sprites.py --layers 4 --minutes 7 --out modules/embedded/dit     # as meant, on a GPU
    python paper_repro/pretrain_sprites.py --model unet --minutes 6 --out modules/embedded/unet
    python paper_repro/pretrain_sprites.py --steps 300 --batch_size 32 --out tried-dit           # a short try
    EMOJI_DIR=... python paper_repro/pretrain_sprites.py --pictures twemoji --minutes 9 --hidden 192 --out twemoji-dit

Their pictures are generated sprites (`modules/embedded/sprites.py`), or emoji. At the end prompts are painted, and what
the pictures show is read by the program that draws them. The folder's pretraining.json says how its weights were made,
and what share of the pictures was right. A training that was cut off goes on from checkpoint.pt in the folder.
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import sys
from collections.abc import Sequence

from modules.command_line import guarded
from modules.pretraining.settings import ImageSettings, parse_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    settings = parse_settings(ImageSettings, __doc__, argv)
    from modules.pretraining.image_model import pretrain

    return pretrain(settings)


if __name__ == "__main__":
    sys.exit(guarded(main))
