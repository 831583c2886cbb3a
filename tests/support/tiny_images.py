"""A diffusion transformer of one block in diffusers' layout, and a folder of a person's pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image

from modules.backbones.diffusion.words import Words
from modules.embedded import sprites
from modules.pretraining.image_model import build
from modules.pretraining.model_folder import write_image_folder
from modules.pretraining.settings import ImageSettings

SETTINGS = ImageSettings(layers=1, hidden=16, heads=2, patch=8, batch_size=8, device="cpu", average=0.5)
CAPTIONS = [scene.prompt(style="sks") for scene in sprites.scenes((sprites.HATCHED,))[::90]]


def tiny_dit(folder: Path) -> Path:
    """A model folder with random weights."""
    torch.manual_seed(0)
    words = Words(word for scene in sprites.scenes() for word in Words.split(scene.prompt()))
    model = build(SETTINGS, len(words))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    write_image_folder(folder, model, FlowMatchEulerDiscreteScheduler(), words, {})
    return folder


def pictures(folder: Path, captions: bool = True) -> Path:
    """Six hatched sprites as PNG files, with metadata.jsonl."""
    folder.mkdir(parents=True)
    for number, scene in enumerate(sprites.scenes((sprites.HATCHED,))[::90]):
        Image.fromarray(sprites.draw(scene)).save(folder / f"{number}.png")
    rows = [{"file_name": f"{number}.png", "text": caption} for number, caption in enumerate(CAPTIONS)]
    if captions:
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def noise_like(picture: np.ndarray, seed: int = 0) -> np.ndarray:
    """A picture of nothing."""
    return np.random.default_rng(seed).integers(0, 256, picture.shape, np.uint8)
