"""A diffusion transformer of one block and a narrow UNet in diffusers' layout, and a folder of a person's pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from modules.backbones.diffusion.words import Words
from modules.embedded import sprites
from modules.pretraining.image_model import build, scheduler_for
from modules.pretraining.model_folder import write_image_folder
from modules.pretraining.settings import ImageSettings

_SMALL = {"layers": 1, "heads": 2, "batch_size": 8, "device": "cpu", "average": 0.5, "painted": 2}
SETTINGS = ImageSettings(hidden=16, patch=8, **_SMALL)
UNET = ImageSettings(model="unet", hidden=24, **_SMALL)
CAPTIONS = [scene.prompt(style="sks") for scene in sprites.scenes((sprites.HATCHED,))[::90]]


def tiny_dit(folder: Path, settings: ImageSettings = SETTINGS) -> Path:
    """A model folder with random weights."""
    torch.manual_seed(0)
    words = Words(word for scene in sprites.scenes() for word in Words.split(scene.prompt()))
    model = build(settings, len(words))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    write_image_folder(folder, model, scheduler_for(settings), words, {})
    return folder


def tiny_unet(folder: Path) -> Path:
    """As `tiny_dit`, of a UNet."""
    return tiny_dit(folder, UNET)


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
