"""Pictures of prompts from fixed noise, by the model as it is now, and by the frozen model (kept between runs)."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from modules.backbones.diffusion.image_model import ImageModel
from modules.data.cache import cache_dir, cached_arrays, digest


class Painter:
    """How a run paints.

    Args:
        image_model: paints.
        weights: hash of the frozen model's weights.
        steps, guidance: of the sampler.
        times: pictures of each prompt.
    """

    def __init__(self, image_model: ImageModel, weights: str, steps: int, guidance: float, times: int = 1) -> None:
        self.image_model, self.weights = image_model, weights
        self.steps, self.guidance, self.times = steps, guidance, times

    def painted(self, prompts: Sequence[str], copies: int = 1) -> list[np.ndarray]:
        """For each stacked adapter pictures (N, H, H, 3) uint8, all of the first prompt first."""
        every = [prompt for prompt in prompts for _ in range(self.times)]
        seeds = _seeds(every)
        found = self.image_model.paint(every, seeds, self.steps, self.guidance, copies)
        return [part.permute(0, 2, 3, 1).contiguous().numpy() for part in found.chunk(copies)]

    def frozen(self, prompts: Sequence[str]) -> np.ndarray:
        """What `painted` gives before an adapter is on the model; painted once, and kept in the cache."""
        size = self.image_model.size
        key = json.dumps([self.weights, list(prompts), self.steps, self.guidance, self.times, size])
        place = cache_dir() / "painted" / f"{digest(key.encode())[:24]}.safetensors"

        def make() -> dict[str, np.ndarray]:
            if len(prompts) > 8:
                print(f"painting {len(prompts) * self.times} pictures with the frozen model", flush=True)
            return {"pictures": self.painted(prompts)[0]}

        return np.asarray(cached_arrays(place, make)["pictures"])


def _seeds(prompts: Sequence[str]) -> list[int]:
    """Of the noise of each picture: by its prompt, and how often that stood before; others beside it change nothing."""
    seen: Counter[str] = Counter()
    found = []
    for prompt in prompts:
        found.append(zlib.crc32(f"{seen[prompt]} {prompt}".encode()))
        seen[prompt] += 1
    return found
