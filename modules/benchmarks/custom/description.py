"""What a person says of their data: which files or data set, which columns, and which rows are for what."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.data.table_files import KINDS as KINDS_OF_FILES
from variants.errors import UserError

KINDS = ("auto", "classes", "score", "multi")

FLAGS = {
    "data": "CSV, TSV, JSONL or Parquet file; folder with train, dev and test files; or Hub id, id:configuration",
    "text": "column of the text, or of two texts: a,b (default: text)",
    "label": "column of the label; several, a,b,c, of 1 and 0: labels of which a row has any number (default: label)",
    "label_kind": "classes, score or multi (default: auto: text and whole numbers are classes, 3.0 is a score, lists "
    "are several labels; texts such as a|b are only if this says multi)",
    "dev": "file of the dev set (default: a file or split called dev, validation or val, else rows cut from --data)",
    "dev_share": "share of the rows that is cut, the same of each class (default: 0.1)",
    "split_seed": "decides which rows are cut, and is part of the run (default: 0)",
    "test": "file of the test set, scored once with the best epoch (default: a file or split called test, else none)",
}
"""Flags of a command: name -> help."""


@dataclass(frozen=True)
class Place:
    """Where data are: a file, a folder, or a Hub id with its configuration."""

    where: str

    @property
    def path(self) -> Path:
        """Of the file or folder."""
        return Path(self.where).expanduser()

    @property
    def is_hub(self) -> bool:
        """Whether it names a data set of the Hub: nothing of that name is on the disk."""
        name = self.where.partition(":")[0]
        looks_so = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name)
        return bool(looks_so) and not self.path.exists() and Path(name).suffix.lower() not in (*KINDS_OF_FILES, ".json")

    @property
    def name(self) -> str:
        """What results call the data: the file's or folder's name, or the Hub's id."""
        return self.where if self.is_hub else self.path.resolve().name

    @property
    def title(self) -> str:
        """Of the column in tables: the name without its ending."""
        stem = self.name.partition("/")[2] or self.name
        return stem if self.is_hub or self.path.is_dir() else Path(stem).stem

    @property
    def task(self) -> str:
        """The title as the name of a task: small letters, digits and _."""
        return re.sub(r"\W+", "_", self.title.lower(), flags=re.ASCII).strip("_") or "data"


@dataclass(frozen=True)
class Description(Place):
    """The flags, read."""

    text: tuple[str, ...]
    label: tuple[str, ...]
    kind: str = "auto"
    dev: str | None = None
    test: str | None = None
    dev_share: float = 0.1
    split_seed: int = 0

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Description:
        """From flags. Raises UserError where one is missing, unknown or out of range."""
        check_known(given, FLAGS)
        if not given.get("data"):
            raise UserError("name your data: --data my.csv --text COLUMN --label COLUMN (--help lists all forms)")
        text, label = (_columns(given, name) for name in ("text", "label"))
        if len(text) > 2:
            raise UserError(f"--text names one column or two, not {len(text)}: {', '.join(text)}")
        if both := set(text) & set(label):
            raise UserError(f"the column {both.pop()!r} is named by --text and by --label")
        kind = str(given.get("label_kind", "auto"))
        if kind not in KINDS:
            raise UserError(f"--label_kind must be one of {', '.join(KINDS)}, not {kind!r}")
        if len(label) > 1 and kind not in ("auto", "multi"):
            raise UserError(f"--label names {len(label)} columns, which are labels of which a row has any number: "
                            f"name one, or leave --label_kind {kind} out")  # fmt: skip
        return cls(
            str(given["data"]), text, label, kind, given.get("dev"), given.get("test"),
            share(given, "dev_share", 0.1), whole(given, "split_seed", 0),
        )  # fmt: skip


def _columns(given: Mapping[str, str], name: str) -> tuple[str, ...]:
    value = given.get(name, name)
    parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
    found = tuple(part.strip() for part in parts if part.strip())
    if not found or len(set(found)) < len(found):
        raise UserError(f"--{name} must name columns, each once, such as a or a,b: not {value!r}")
    return found


def check_known(given: Mapping[str, str], flags: Mapping[str, str]) -> None:
    """Raise UserError, with the nearest name, where a description has a key that is no flag."""
    for name in given:
        if name not in flags:
            near = difflib.get_close_matches(name, flags, n=1) or flags
            raise UserError(f"data: unknown key {name!r}; did you mean {', '.join(near)}?")


def share(given: Mapping[str, str], name: str, default: float) -> float:
    """A flag's share, between 0 and 1."""
    try:
        value = float(given.get(name, default))
    except (TypeError, ValueError):
        value = 0.0
    if not 0 < value < 1:
        raise UserError(f"--{name} must be a share between 0 and 1, such as 0.1, not {given[name]!r}")
    return value


def whole(given: Mapping[str, str], name: str, default: int) -> int:
    """A flag's whole number from 0."""
    value = str(given.get(name, default))
    if not re.fullmatch(r"\d{1,9}", value):
        raise UserError(f"--{name} must be a whole number from 0, not {value!r}")
    return int(value)
