"""CLIP-I, CLIP-T and DINO: cosines of features by transformers' models, which are loaded when a score asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from modules.hub import from_hub, hub_cached
from variants.errors import UserError, first_line

SCORES = ("clip_i", "clip_t", "dino")
AT_ONCE = 32


def check(names: Sequence[str]) -> None:
    """Raise UserError on a score that is none."""
    for name in names:
        if name not in SCORES:
            raise UserError(f"--scores: unknown score {name!r}; there are {', '.join(SCORES)}")


class Similarity:
    """The models of some scores, loaded at once: before training, not behind hours of it.

    Args:
        names: of `SCORES`.
        clip, dino: Hub ids or folders.
    """

    def __init__(self, names: Sequence[str], clip: str, dino: str) -> None:
        check(names)
        self.names = tuple(names)
        self.clip = _load("CLIPModel", clip) if {"clip_i", "clip_t"} & set(names) else None
        self.dino = _load("AutoModel", dino) if "dino" in names else None

    @torch.no_grad()
    def scored(self, pictures: np.ndarray, prompts: Sequence[str], train: np.ndarray) -> dict[str, float]:
        """Mean cosines: of pictures (N, H, H, 3) with each training picture, and with their own prompts (N)."""
        found: dict[str, float] = {}
        if self.clip:
            own = self._clip(pictures)
            if "clip_i" in self.names:
                found["clip_i"] = (own @ self._clip(train).T).mean().item()
            if "clip_t" in self.names:
                model, processor = self.clip
                told = processor(text=list(prompts), return_tensors="pt", padding=True, truncation=True)
                texts = normalize(_tensor(model.get_text_features(**told)), dim=-1)
                found["clip_t"] = (own * texts).sum(-1).mean().item()
        if self.dino:
            found["dino"] = (self._dino(pictures) @ self._dino(train).T).mean().item()
        return {name: found[name] for name in self.names}

    def _clip(self, pictures: np.ndarray) -> Tensor:
        model, processor = self.clip
        return _features(pictures, processor, lambda pixels: _tensor(model.get_image_features(pixel_values=pixels)))

    def _dino(self, pictures: np.ndarray) -> Tensor:
        model, processor = self.dino
        return _features(pictures, processor, lambda pixels: model(pixel_values=pixels).last_hidden_state[:, 0])


def _tensor(found: Any) -> Tensor:
    """The features themselves: newer versions of transformers wrap them."""
    return found if isinstance(found, Tensor) else found.pooler_output


def _features(pictures: np.ndarray, processor: Any, compute: Any) -> Tensor:
    """Unit vectors (N, D)."""
    parts = []
    for start in range(0, len(pictures), AT_ONCE):
        pixels = processor(images=list(pictures[start : start + AT_ONCE]), return_tensors="pt").pixel_values
        parts.append(normalize(compute(pixels).float(), dim=-1))
    return torch.cat(parts)


def _load(kind: str, spec: str) -> tuple[Any, Any]:
    """(model, processor) of a Hub id or folder, from safetensors alone."""
    import transformers

    own = transformers.CLIPProcessor if kind == "CLIPModel" else transformers.AutoImageProcessor

    def load() -> tuple[Any, Any]:
        model = getattr(transformers, kind).from_pretrained(spec, use_safetensors=True, trust_remote_code=False)
        return model.eval(), own.from_pretrained(spec, trust_remote_code=False)

    try:
        return load() if Path(spec).is_dir() else from_hub(f"model {spec!r}", spec, hub_cached(model=spec), load)
    except UserError:
        raise
    except Exception as error:  # transformers raises a dozen kinds
        raise UserError(f"--scores: the model {spec!r} cannot be loaded: {first_line(error)}") from error
