"""Where rows come from: the interface of all sources."""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from modules.data.task import Task
from variants.errors import UserError


@dataclass
class Split:
    """Rows of one split: `texts[i]` has one string per field of the task, `labels[i]` is a class index or a score, or
    has a 1.0 or 0.0 for each label where a row has any number of them."""

    texts: list[tuple[str, ...]] = field(default_factory=list)
    labels: list[int] | list[float] | list[list[float]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)


def content_hash(splits: dict[str, Split]) -> str:
    """SHA-256 (hex) of all rows: equal for equal content, wherever it was read from."""
    digest = hashlib.sha256()
    for name, split in sorted(splits.items()):
        digest.update(json.dumps([name, split.texts, split.labels]).encode())
    return digest.hexdigest()


class Source:
    """The interface. Subclasses set the class attributes and implement `_read`.

    Attributes:
        kind: "embedded", "folder", "hub", "file" or "code"; stored with a result, and shown.
        name: of the data; stored and shown likewise.
        spec: what opens it again in another process, beside the kind: a folder, or the flags that describe files.
        restore: the advice that ends an error about a damaged file.
        sizes: by task and split, the number of rows; filled by `load`.
        notes: by task, lines about rows or files that were left out; filled by `load`.
    """

    kind: str
    name: str
    spec: str | dict[str, str] = ""
    restore: str

    def __init__(self) -> None:
        self.sizes: dict[str, dict[str, int]] = {}
        self.notes: dict[str, list[str]] = {}
        self._hashes: dict[str, str] = {}

    def load(self, task: Task) -> dict[str, Split]:
        """Reads "train" and the dev splits that exist. Raises UserError with one line where they cannot be read."""
        self.notes[task.name] = []
        splits = self._read(task)
        self.sizes[task.name] = {name: len(split) for name, split in splits.items()}
        for name, size in self.sizes[task.name].items():
            if not size:
                raise UserError(f"{self.kind} data {self.name!r}: {task.title} {name} has no rows; {self.restore}")
        self._hashes[task.name] = content_hash(splits)
        return splits

    def expect(self, task: Task, content: str) -> dict[str, Split]:
        """`load`, where the rows must be those of a known hash.

        Args:
            content: the `hash` of the rows that the run's configuration was made with.

        Raises:
            UserError: the rows have changed since then, or cannot be read.
        """
        splits = self.load(task)
        if self.hash(task) != content:
            raise UserError(f"the data in {self.name} have changed since this run was planned; start the command again")
        return splits

    def hash(self, task: Task) -> str:
        """The content hash of the task's rows (reads them if that has not happened yet)."""
        if task.name not in self._hashes:
            self.load(task)
        return self._hashes[task.name]

    def _read(self, task: Task) -> dict[str, Split]:
        """The rows by split, for `load`."""
        raise NotImplementedError


def read_lines(path: Path, restore: str) -> Iterable[tuple[int, str]]:
    """Yields (line number, line), numbers from 1. Only \\n ends a line: the texts hold other separators of Unicode.

    Args:
        spec: what opens it again in another process, beside the kind: a folder, or the flags that describe files.
        restore: the advice that ends an error.

    Raises:
        UserError: naming the file, and the line where the text is not UTF-8.
    """
    try:
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {restore}") from None
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x}); {restore}") from None
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), start=1):
        yield number, line.removesuffix("\r")
