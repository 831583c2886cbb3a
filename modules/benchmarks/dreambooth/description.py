"""What a person says of their own pictures: where they are, and which prompts belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.benchmarks.custom.description import Place, check_known, share, whole
from modules.documents import read_text
from variants.errors import UserError

FLAGS = {
    "data": "your own pictures in place of a task: folder with metadata.jsonl (file_name, text), or with a .txt file "
    "beside each picture; or Hub id of such a data set",
    "instance_prompt": "prompt of pictures that have no caption, such as 'a photo of sks dog'",
    "class_prompt": "prompt of the class, such as 'a photo of a dog': with --prior_weight, and to measure drift",
    "prompts": "prompts that are painted and scored, separated by ; or in a .txt file, one a line (default: the "
    "captions)",
    "dev_share": "share of the pictures that is held out (default: 0.1, at least one)",
    "split_seed": "decides which pictures are held out, and is part of the run (default: 0)",
}
"""Flags of the command: name -> help."""


@dataclass(frozen=True)
class Description(Place):
    """The flags, read; ``where`` is a folder or a Hub id."""

    instance_prompt: str = ""
    class_prompt: str = ""
    prompts: tuple[str, ...] = ()
    dev_share: float = 0.1
    split_seed: int = 0

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Description:
        """From flags. Raises UserError where one is unknown or out of range, or names a file that is not there."""
        check_known(given, FLAGS)
        if not given.get("data"):
            raise UserError(f"--{next(iter(given))} belongs to your own pictures: name them by --data")
        return cls(
            str(given["data"]), str(given.get("instance_prompt", "")), str(given.get("class_prompt", "")),
            _prompts(str(given.get("prompts", ""))), share(given, "dev_share", 0.1), whole(given, "split_seed", 0),
        )  # fmt: skip


def _prompts(text: str) -> tuple[str, ...]:
    if text.endswith(".txt"):
        path = Path(text).expanduser()
        if not path.is_file():
            raise UserError(f"--prompts {text}: there is no such file")
        lines = read_text(path).splitlines()
    else:
        lines = text.split(";")
    return tuple(line.strip() for line in lines if line.strip())
