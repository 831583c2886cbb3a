"""Where pictures and prompts come from: the generated sprites, emoji in a folder, or a person's own pictures."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modules.benchmarks.dreambooth.description import Description
from modules.benchmarks.dreambooth.files import pictures_in, pictures_of_hub
from modules.benchmarks.dreambooth.tasks import (
    CHARACTER,
    CHARACTER_TOKEN,
    EMOJI,
    EMOJI_CHARACTER,
    STYLE,
    TOKEN,
    PictureTask,
)
from modules.data.source import Source, Split
from variants.errors import UserError

OF_A_CLASS = 8
"""Pictures of a class prompt by which drift is measured."""


@dataclass
class PictureSplit(Split):
    """Prompts, with what belongs to each; `texts` are (prompt, hash of the picture).

    Attributes:
        pictures: (H, W, 3) uint8 each: those that are trained on, or what prompts ask for; none where there are none.
        others: what they must not look like: of emoji, the hand that the model knows.
        scenes: of sprites, what prompts ask for.
    """

    pictures: list[np.ndarray] = field(default_factory=list)
    others: list[np.ndarray] = field(default_factory=list)
    scenes: list[Any] = field(default_factory=list)

    @property
    def prompts(self) -> list[str]:
        """The prompts."""
        return [prompt for prompt, _ in self.texts]


def split_of(
    prompts: Iterable[str],
    pictures: Sequence[np.ndarray] = (),
    others: Sequence[np.ndarray] = (),
    scenes: Sequence[Any] = (),
) -> PictureSplit:
    """A split of prompts and what belongs to them."""
    prompts = list(prompts)
    hashes = [hashlib.sha256(picture.tobytes()).hexdigest()[:16] for picture in pictures] or [""] * len(prompts)
    texts = list(zip(prompts, hashes, strict=True))
    return PictureSplit(texts, [0] * len(texts), list(pictures), list(others), list(scenes))


class EmbeddedSource(Source):
    """The generated sprites in a style, or with a character, that the small model has never seen.

    Splits: "train" and "validation"; "test", prompts for what is new; "kept", prompts without it; "class", prompts of
    the pictures that the frozen model paints for prior preservation.
    """

    kind, name = "embedded", "generated sprites"
    restore = "install the project again"

    def _read(self, task: PictureTask) -> dict[str, Split]:
        from modules.embedded import sprites
        from modules.embedded.lexicon import Dice

        if task.name not in (STYLE.name, CHARACTER.name):
            raise UserError(f"the embedded model knows nothing of {task.title}: name a model with --model")
        dice, new = Dice("sprites", task.name), task.name == STYLE.name
        scenes = sprites.scenes((sprites.HATCHED,)) if new else sprites.mushrooms(sprites.STYLES)
        train, held, test = (24, 24, 48) if new else (24, 8, 24)
        chosen = dice.sample(scenes, train + held + test)
        kept = dice.sample(sprites.scenes(), 36 + 48)

        def split(scenes: list[sprites.Scene], drawn: bool, taught: bool = True) -> PictureSplit:
            said = {"style": TOKEN} if new else {"subject": CHARACTER_TOKEN}
            prompts = [scene.prompt(**said) if taught else scene.prompt() for scene in scenes]
            jittered = [sprites.draw(scene, dice.pick(sprites.JITTERS)) for scene in scenes] if drawn else []
            return split_of(prompts, jittered, scenes=scenes)

        return {
            "train": split(chosen[:train], True),
            "validation": split(chosen[train : train + held], True),
            "test": split(chosen[train + held :], True),
            "kept": split(kept[:36], False, taught=False),
            "class": split(kept[36:], False, taught=False),
        }


class EmojiSource(Source):
    """Emoji in Noto's hand, for a model that was pretrained on Twemoji's (`modules.data.emoji`): any of them, or one
    character of Noto's alone, whom Twemoji draws otherwise: the woman, in all that she does."""

    kind = "folder"
    restore = "name another folder with --data_dir"
    SIZES = {EMOJI.name: (32, 64, 64), EMOJI_CHARACTER.name: (32, 15, 32)}
    """Emoji that are trained on, held out for the loss, and asked for."""
    KEPT, CLASS, WHO = 64, 48, "woman"

    def __init__(self, spec: str) -> None:
        super().__init__()
        self.spec, self.root = spec, Path(spec).expanduser()
        self.name = self.root.resolve().name
        if not self.root.is_dir():
            raise UserError(f"--data_dir {spec}: there is no such folder")

    def _read(self, task: PictureTask) -> dict[str, Split]:
        from modules.data.emoji import HANDS, read_emoji
        from modules.embedded.lexicon import Dice

        if task.name not in self.SIZES:
            raise UserError(f"{task.title} is of the embedded model: leave --model and --data_dir out")
        known, new = (read_emoji(self.root, hand) for hand in HANDS)
        hand, numbers = task.name == EMOJI.name, range(len(known))
        taught = [n for n in numbers if hand or re.match(rf"{self.WHO}\b", known[n].words)]
        others, kind = sorted(set(numbers) - set(taught)), "emoji" if hand else f"emoji of a {self.WHO}"
        if len(taught) < (least := sum(self.SIZES[task.name])):
            raise UserError(f"{self.root} has {len(taught):,} {kind}: at least {least}")
        order = Dice(task.name).sample(taught, len(taught))
        parts, start = {}, 0
        for name, count in zip(("train", "validation", "test"), self.SIZES[task.name], strict=True):
            some = order[start : start + count]
            start += count
            prompts = [f"{TOKEN if hand else CHARACTER_TOKEN}, {new[n].words}" for n in some]
            parts[name] = split_of(prompts, [new[n].picture for n in some], [known[n].picture for n in some])
        # of a hand, what is asked for in the other one; of a character, emoji of others
        kept = some if hand else Dice(task.name, "kept").sample(others, min(self.KEPT, len(others)))
        parts["kept"] = split_of([f"{HANDS[0]}, {known[n].words}" for n in kept], [known[n].picture for n in kept])
        parts["class"] = split_of(f"{HANDS[0]}, {known[n].words}" for n in order[: self.CLASS])
        return parts


class HubSource(Source):
    """None of the tasks is on the Hub."""

    kind, name = "hub", "the Hub"
    restore = "name your own pictures with --data"

    def _read(self, task: PictureTask) -> dict[str, Split]:
        raise UserError("name your own pictures with --data, or a folder of emoji with --data_dir or EMOJI_DIR")


class OwnSource(Source):
    """A person's own pictures, as flags describe them."""

    restore = "mend the folder"

    def __init__(self, given: Mapping[str, str]) -> None:
        super().__init__()
        self.wanted, self.spec = Description.of(given), dict(given)
        self.kind = "hub" if self.wanted.is_hub else "folder"
        self.name = self.wanted.name

    def _read(self, task: PictureTask) -> dict[str, Split]:
        from modules.embedded.lexicon import Dice

        wanted, notes = self.wanted, self.notes[task.name]
        found = pictures_of_hub(wanted.where) if wanted.is_hub else pictures_in(wanted.path)
        lacking = sum(not caption for caption, _ in found)
        if lacking and not wanted.instance_prompt:
            raise UserError(
                f"--data {wanted.where}: {lacking} of {len(found)} pictures have no caption: write metadata.jsonl or "
                "a .txt file beside each, or give --instance_prompt"
            )
        held = max(1, round(wanted.dev_share * len(found)))
        if len(found) < 2:
            raise UserError(f"--data {wanted.where}: one picture is too few: one has to be held out")
        order = Dice("pictures", wanted.split_seed).sample(range(len(found)), len(found))
        notes.append(f"held out: {held} of {len(found)} pictures, by split seed {wanted.split_seed}")

        def split(numbers: Sequence[int]) -> PictureSplit:
            some = [found[number] for number in sorted(numbers)]
            return split_of([caption or wanted.instance_prompt for caption, _ in some], [each for _, each in some])

        parts = {"train": split(order[held:]), "validation": split(order[:held])}
        asked = list(wanted.prompts or dict.fromkeys(parts["train"].prompts))
        parts["test"] = split_of(asked)
        if wanted.class_prompt:
            parts["class"] = parts["kept"] = split_of([wanted.class_prompt] * OF_A_CLASS)
        return parts
