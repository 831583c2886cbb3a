"""What painted pictures are scored by, from 0 to 1: exact on sprites, by pixels on emoji, by CLIP and DINO on others.

taught    share that shows what is new: the style, or the character
followed  share that shows the rest of the prompt: count, colour and shape, or with the character count and place; of
          emoji, share whose nearest drawing, in either hand, among all that are asked for is the prompt's
kept      on prompts without the new word, share that shows all of the prompt: style, count, colour, shape
neg_drift there, root mean square distance from what the frozen model paints from the same noise, its sign turned
nearest   mean root mean square distance from the training picture that is nearest: 0 is a copy
nearer    of emoji, share that is nearer to the new hand's drawing than to the known one's
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from modules.benchmarks.dreambooth.sources import PictureSplit

WORDS = {
    "taught": "share of pictures in which the new style or character is",
    "followed": "share that shows the rest of the prompt, or of emoji what was asked for",
    "kept": "share right on prompts without the new word",
    "neg_drift": "distance of these from the frozen model's pictures, its sign turned",
    "nearest": "distance from the nearest training picture",
    "nearer": "share nearer to the new artist's drawing than to the known one's",
    "clip_i": "cosine of CLIP's image features with the training pictures'",
    "clip_t": "cosine of CLIP's features of picture and prompt",
    "dino": "cosine of DINO's image features with the training pictures'",
}
"""What each score is, for a reader of the table."""


@dataclass
class Painted:
    """What is scored.

    Attributes:
        test: pictures (N, H, H, 3) uint8 for the prompts of ``asked``.
        asked: the prompts with what belongs to them; prompt i // times of them belongs to picture i.
        kept, base: pictures for the prompts of ``kept_asked``, of the adapted and of the frozen model.
        train: the training pictures.
        times: pictures of each prompt.
    """

    test: np.ndarray
    asked: PictureSplit
    train: np.ndarray
    kept: np.ndarray | None = None
    base: np.ndarray | None = None
    kept_asked: PictureSplit = field(default_factory=PictureSplit)
    times: int = 1


def scored(painted: Painted) -> dict[str, float]:
    """Every score that can be had without another model."""
    found = {"nearest": float(np.mean([_distances(each, painted.train).min() for each in painted.test]))}
    if painted.kept is not None:
        pairs = zip(painted.kept, painted.base, strict=True)
        found["neg_drift"] = -float(np.mean([_distances(a, b[None])[0] for a, b in pairs]))
    if painted.asked.scenes:
        found |= _of_sprites(painted)
    if painted.asked.others:
        pairs = zip(painted.asked.pictures, painted.asked.others, strict=True)
        both = [np.stack(pair) for pair in pairs]
        distances = [_distances(each, both[n // painted.times]) for n, each in enumerate(painted.test)]
        found["nearer"] = float(np.mean([new < known for new, known in distances]))
        every = np.concatenate(both)
        nearest = [_distances(each, every).argmin() // 2 for each in painted.test]
        found["followed"] = float(np.mean([k == n // painted.times for n, k in enumerate(nearest)]))
    return {name: found[name] for name in WORDS if name in found}


def _of_sprites(painted: Painted) -> dict[str, float]:
    from modules.embedded.sprite_reader import read
    from modules.embedded.sprites import FOLLOWED, MUSHROOM

    taught, followed = [], []
    for number, picture in enumerate(painted.test):
        wanted, seen = painted.asked.scenes[number // painted.times], read(picture)
        mushroom = wanted.shape == MUSHROOM
        new, others = ("shape", ("count", "place")) if mushroom else ("style", ("count", "colour", "shape"))
        taught.append(_same(wanted, seen, (new,)))
        followed.append(_same(wanted, seen, others))
    found = {"taught": float(np.mean(taught)), "followed": float(np.mean(followed))}
    if painted.kept is not None:
        scenes = painted.kept_asked.scenes
        right = [_same(scenes[n // painted.times], read(each), FOLLOWED) for n, each in enumerate(painted.kept)]
        found["kept"] = float(np.mean(right))
    return found


def _same(wanted: object, seen: object, names: Sequence[str]) -> bool:
    return seen is not None and all(getattr(wanted, name) == getattr(seen, name) for name in names)


def _distances(picture: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Root mean square distances of a picture from others (M, H, H, 3), in shares of the range."""
    difference = others.astype(np.float32) - picture.astype(np.float32)
    return np.sqrt((difference**2).mean((1, 2, 3))) / 255
