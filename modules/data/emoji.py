"""Emoji of 32 x 32 pixels in two artists' hands, from a folder with a sheet of each and their index."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from modules.documents import read_json
from variants.errors import UserError
from variants.schema import checked

HANDS = ("twemoji", "noto")
"""Whose drawings: Twemoji (CC-BY 4.0) and Noto Emoji (Apache-2.0)."""
ENV = "EMOJI_DIR"
"""The variable that names the folder: index.json, and HAND_32.png with cells of 34 pixels, a border of one around
each emoji, at the column x and the row y that the index says."""
SIZE = 32


class _Entry(TypedDict):
    name: str
    words: str
    category: str
    x: int
    y: int


class Emoji(NamedTuple):
    """An emoji: its ``words`` such as ``grinning face smileys``, and its ``picture`` (32, 32, 3) uint8 on white."""

    name: str
    words: str
    picture: np.ndarray


def folder_in_environment() -> Path:
    """The folder that `ENV` names. Raises UserError where it names none."""
    if not (name := os.environ.get(ENV)):
        raise UserError(f"{ENV} names no folder of emoji: index.json, {', '.join(f'{hand}_32.png' for hand in HANDS)}")
    return Path(name).expanduser()


def read_emoji(folder: Path, hand: str) -> list[Emoji]:
    """All emoji of a hand that both hands have drawn, in the order of the index.

    Raises:
        UserError: a file is missing or damaged.
    """
    from PIL import Image

    index, sheet = folder / "index.json", folder / f"{hand}_32.png"
    content = read_json(index)
    if not isinstance(content, list):
        raise UserError(f"{index}: expected a list of emoji")
    try:
        with Image.open(sheet) as file:
            painted = file.convert("RGBA")
    except OSError as error:
        raise UserError(f"{sheet} cannot be read as a picture ({error})") from None
    white = Image.new("RGBA", painted.size, "white")
    pixels, found = np.asarray(Image.alpha_composite(white, painted).convert("RGB")), []
    for number, entry in enumerate(content):
        entry = entry if isinstance(entry, dict) else {}
        if not all(entry.get(each, True) for each in HANDS):
            continue
        known = {key: entry[key] for key in _Entry.__annotations__ if key in entry}
        checked(_Entry, known, f"{index}: emoji {number + 1}")
        top, left = 34 * known["y"] + 1, 34 * known["x"] + 1
        picture = pixels[top : top + SIZE, left : left + SIZE]
        if min(top, left) < 0 or picture.shape != (SIZE, SIZE, 3):
            raise UserError(f"{index}: emoji {number + 1} ({known['name']}) lies outside {sheet.name}")
        found.append(Emoji(known["name"], f"{known['words']} {known['category']}".lower(), picture.copy()))
    return found
