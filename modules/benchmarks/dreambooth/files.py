"""Pictures and their captions from a folder or the Hub, in the forms that image models are trained from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from modules.documents import parse_json, read_text
from modules.hub import from_hub, hub_cached
from variants.errors import UserError, first_line

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
CAPTIONS = ("text", "caption", "prompt")
"""Names that captions have in metadata.jsonl and in data sets, in the order of preference."""
MOST_PIXELS = 64_000_000
"""Of a picture: a small file may claim any size."""

Captioned = tuple[str, np.ndarray]
"""A caption, "" where there is none, and a picture (H, W, 3) uint8."""


def pictures_in(folder: Path) -> list[Captioned]:
    """The pictures of a folder, by name, with the captions of metadata.jsonl or of the .txt file beside each.

    Raises:
        UserError: there are none, one cannot be read, or metadata.jsonl names a picture that is not there.
    """
    if not folder.is_dir():
        raise UserError(f"--data {folder}: there is no such folder, and it is no Hub id")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in ENDINGS)
    if not files:
        raise UserError(f"--data {folder}: no pictures there ({', '.join(ENDINGS)})")
    captions = dict(_metadata(folder / "metadata.jsonl")) if (folder / "metadata.jsonl").is_file() else {}
    if unknown := sorted(set(captions) - {file.name for file in files}):
        raise UserError(f"{folder / 'metadata.jsonl'} names {unknown[0]}, which is not in the folder")
    return [(captions.get(file.name) or _beside(file), _read(file)) for file in files]


def _metadata(path: Path) -> Iterator[tuple[str, str]]:
    """(file name, caption) of each line."""
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        row = parse_json(line, where)
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise UserError(f"{where}: expected the keys file_name and text")
        yield row["file_name"], _caption(row, where)


def _caption(row: dict[str, Any], where: str) -> str:
    name = next((name for name in CAPTIONS if row.get(name) is not None), "")
    if name and not isinstance(row[name], str):
        raise UserError(f"{where}: {name} must be a text, not {str(row[name])[:40]!r}")
    return row[name].strip() if name else ""


def _beside(file: Path) -> str:
    """The caption of the .txt file of the same name."""
    text = file.with_suffix(".txt")
    return " ".join(read_text(text).split()) if text.is_file() else ""


def _read(file: Path) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(file) as opened:
            return _pixels(opened, str(file))
    except UserError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds
        raise UserError(f"{file} cannot be read as a picture ({first_line(error)})") from None


def _pixels(image: Any, where: str) -> np.ndarray:
    """A picture upright and on white, (H, W, 3) uint8."""
    from PIL import Image, ImageOps

    if image.width * image.height > MOST_PIXELS:
        raise UserError(f"{where}: {image.width} x {image.height} pixels are too many: at most {MOST_PIXELS:,}")
    image = ImageOps.exif_transpose(image).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def pictures_of_hub(where: str) -> list[Captioned]:
    """The pictures of a data set of the Hub, of its split "train".

    Raises:
        UserError: it cannot be loaded, or has no column of pictures.
    """
    repo, _, configuration = where.partition(":")

    def load() -> Any:
        import datasets

        return datasets.load_dataset(repo, configuration or None)

    try:
        loaded = from_hub(f"data set {repo!r}", repo, hub_cached(repo=repo, configurations=["default"]), load)
    except UserError:
        raise
    except Exception as error:  # any of four libraries' errors: the person needs one line
        raise UserError(f"--data {where}: cannot be loaded: {first_line(error)}") from error
    rows = loaded.get("train")
    if rows is None:
        raise UserError(f"--data {where}: has no split 'train'; it has {', '.join(loaded)}")
    columns = [name for name, kind in rows.features.items() if type(kind).__name__ == "Image"]
    if not columns:
        raise UserError(f"--data {where}: has no column of pictures; it has {', '.join(rows.features)}")
    name, found = columns[0], []
    for number, row in enumerate(rows, 1):
        place = f"{where}: row {number}"
        found.append((_caption({k: v for k, v in row.items() if k in CAPTIONS}, place), _pixels(row[name], place)))
    return found


def fitted(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture as a square of so many pixels: its middle, resized; (size, size, 3) uint8."""
    from PIL import Image, ImageOps

    if picture.shape[:2] == (size, size):
        return picture
    return np.asarray(ImageOps.fit(Image.fromarray(picture), (size, size), Image.Resampling.LANCZOS))
