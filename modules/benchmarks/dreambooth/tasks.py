"""What an image model is adapted to: a style and a character, of generated sprites and of another artist's emoji."""

from __future__ import annotations

from dataclasses import dataclass

from modules.data.task import Task

TOKEN, CHARACTER_TOKEN = "sks", "ohwx"
"""The words that stand for a new style and for a new character."""
LOSS = "neg_heldout_loss"
"""The loss on held-out pictures with its sign turned: it picks the best epoch."""


@dataclass(frozen=True, kw_only=True)
class PictureTask(Task):
    """A task.

    Attributes:
        metrics: `LOSS`.
        scores: what pictures are scored by after training; of a person's own data as settings say.
    """

    metrics: tuple[str, ...] = (LOSS,)
    fields: tuple[str, ...] = ("prompt",)
    scores: tuple[str, ...] = ()


_OF_SPRITES = ("taught", "followed", "kept", "neg_drift", "nearest")
STYLE = PictureTask(name="style", title="Style", scores=_OF_SPRITES)
CHARACTER = PictureTask(name="character", title="Character", scores=_OF_SPRITES)
_OF_EMOJI = ("nearer", "followed", "neg_drift", "nearest")
EMOJI = PictureTask(name="emoji", title="Emoji", scores=_OF_EMOJI)
EMOJI_CHARACTER = PictureTask(name="emoji_character", title="Emoji character", scores=_OF_EMOJI)
TASKS = {task.name: task for task in (STYLE, CHARACTER, EMOJI, EMOJI_CHARACTER)}
"""The benchmark's own: the first two are of the model that ships with the project."""
