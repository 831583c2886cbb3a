"""The small image models that ship: small, in fp16, and painting as often what is asked as their record says."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modules.embedded import SPRITES, UNET, sprites
from modules.embedded.lexicon import Dice
from modules.embedded.sprite_reader import read
from modules.pretraining.read_back import WORDS, _painted

PICTURES = 10
ROOMS = {SPRITES: "transformer", UNET: "unet"}


def test_sizes():
    files = [file for folder in ROOMS for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 5e6
    for folder, room in ROOMS.items():
        weights = load_file(folder / room / "diffusion_pytorch_model.safetensors")
        record = json.loads((folder / "pretraining.json").read_text())
        assert {value.dtype for value in weights.values()} == {torch.float16}
        assert sum(value.numel() for value in weights.values()) >= record["parameters"]


@pytest.mark.slow
@pytest.mark.parametrize("folder", ROOMS, ids=["dit", "unet"])
def test_they_paint_what_is_asked_as_often_as_their_record_says(folder):
    every = sprites.scenes()
    asked = [every[n] for n in Dice("read back").sample(range(len(every)), PICTURES)]
    seen = [read(picture) for picture in _painted(folder, [scene.prompt() for scene in asked], torch.device("cpu"))]
    right = [
        all(getattr(s, word, None) == getattr(a, word) for word in WORDS[:4]) for a, s in zip(asked, seen, strict=True)
    ]
    share = json.loads((folder / "pretraining.json").read_text())["painted"]["followed"]
    assert abs(np.mean(right) - share) < 3 * np.sqrt(
        share * (1 - share) * (1 / PICTURES + 1 / 128)
    )  # three standard errors
