"""Painted pictures are read: a model that paints what is asked gets every share, one that paints noise none."""

import numpy as np
import pytest
import torch

from modules.embedded import sprites
from modules.pretraining import read_back
from tests.support.tiny_images import noise_like

CPU = torch.device("cpu")
BY_PROMPT = {scene.prompt(): scene for scene in sprites.scenes()}


def test_shares_of_sprites(monkeypatch, tmp_path):
    def painted(folder, prompts, device):
        scenes = [BY_PROMPT[prompt] for prompt in prompts]
        right = [sprites.draw(scene) for scene in scenes]
        other = "blue" if scenes[0].colour != "blue" else "red"
        right[0] = sprites.draw(sprites.Scene(**vars(scenes[0]) | {"colour": other}))
        right[1] = noise_like(right[1])
        return np.stack(right)

    monkeypatch.setattr(read_back, "_painted", painted)
    found = read_back.read_back(tmp_path, "sprites", 8, CPU)
    assert found["pictures"] == 8 and found["colour"] == found["followed"] == 0.75 and found["shape"] == 0.875
    assert read_back.read_back(tmp_path, "sprites", 0, CPU) == {}


def test_shares_of_emoji(monkeypatch, tmp_path):
    from modules.data import emoji

    every = [emoji.Emoji(str(n), f"face {n}", np.full((32, 32, 3), 20 * n, np.uint8)) for n in range(10)]
    monkeypatch.setenv(emoji.ENV, str(tmp_path))
    monkeypatch.setattr(emoji, "read_emoji", lambda folder, hand: every)

    def painted(folder, prompts, device):
        numbers = [int(prompt.split()[-1]) for prompt in prompts]
        assert prompts[0].startswith("twemoji, face ")
        return np.stack([every[number].picture for number in [*numbers[:-1], (numbers[-1] + 5) % 10]])

    monkeypatch.setattr(read_back, "_painted", painted)
    assert read_back.read_back(tmp_path, "twemoji", 4, CPU) == {"pictures": 4, "nearest": pytest.approx(0.75)}
