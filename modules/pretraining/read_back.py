"""Whether a pretrained image model paints what prompts ask for: sprites are read by the program that draws them, emoji
by which of them all is nearest."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch

from modules.backbones.diffusion.families import load_image_model
from modules.embedded import sprites
from modules.embedded.lexicon import Dice
from modules.embedded.sprite_reader import read

STEPS, GUIDANCE = 20, 3.0
"""Of painting, as `dreambooth.py` has them by default."""
WORDS = ("style", "count", "colour", "shape", "place", "background")


def read_back(folder: Path, pictures: str, count: int, device: torch.device) -> dict[str, float]:
    """Shares of painted pictures that are right, by word and as ``followed``; of emoji as ``nearest``.

    Args:
        folder: of the model.
        pictures: what it has learnt from: "sprites", or a hand of emoji.
        count: pictures that are painted, of prompts that are drawn by a fixed seed; 0 for none.
    """
    if not count:
        return {}
    return _sprites(folder, count, device) if pictures == "sprites" else _emoji(folder, pictures, count, device)


def _painted(folder: Path, prompts: list[str], device: torch.device) -> np.ndarray:
    """Pictures (N, H, H, 3) uint8."""
    model = load_image_model(folder, folder.name)
    model.denoiser.to(device).eval()
    seeds = [zlib.crc32(f"{number} {prompt}".encode()) for number, prompt in enumerate(prompts)]
    return model.paint(prompts, seeds, STEPS, GUIDANCE).permute(0, 2, 3, 1).numpy()


def _sprites(folder: Path, count: int, device: torch.device) -> dict[str, float]:
    every = sprites.scenes()
    asked = [every[n] for n in Dice("read back").sample(range(len(every)), min(count, len(every)))]
    seen = [read(picture) for picture in _painted(folder, [scene.prompt() for scene in asked], device)]
    pairs = list(zip(asked, seen, strict=True))
    right = np.array([[s is not None and getattr(s, word) == getattr(a, word) for word in WORDS] for a, s in pairs])
    shares = dict(zip(WORDS, right.mean(0).round(4).tolist(), strict=True))
    followed = right[:, [WORDS.index(word) for word in sprites.FOLLOWED]].all(1).mean()
    return {"pictures": len(asked), "followed": round(float(followed), 4), **shares}


def _emoji(folder: Path, hand: str, count: int, device: torch.device) -> dict[str, float]:
    from modules.data.emoji import folder_in_environment, read_emoji

    every = read_emoji(folder_in_environment(), hand)
    known = np.stack([each.picture for each in every]).astype(np.float32)
    asked = Dice("read back").sample(range(len(every)), min(count, len(every)))
    painted = _painted(folder, [f"{hand}, {every[n].words}" for n in asked], device)
    nearest = [int(((known - picture) ** 2).mean((1, 2, 3)).argmin()) for picture in painted.astype(np.float32)]
    return {"pictures": len(asked), "nearest": round(float(np.mean(np.array(nearest) == np.array(asked))), 4)}
