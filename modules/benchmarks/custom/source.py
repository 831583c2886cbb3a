"""The rows of a person's data: read, checked, with a dev split."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from modules.benchmarks.custom.description import Description
from modules.benchmarks.custom.files import Part, read_parts
from modules.benchmarks.custom.labels import Labels, labels_of
from modules.benchmarks.custom.splitting import cut
from modules.data.cache import digest
from modules.data.source import Source, Split
from modules.data.task import Task
from variants.errors import UserError


class TableSource(Source):
    """Files or a data set of the Hub, as flags describe them.

    Attributes:
        labels: of the training rows, once they have been read.
    """

    restore = "mend the file, or name another column"

    def __init__(self, given: Mapping[str, str]) -> None:
        super().__init__()
        self.wanted, self.spec = Description.of(given), dict(given)
        self.kind = "hub" if self.wanted.is_hub else "folder" if self.wanted.path.is_dir() else "file"
        self.name = self.wanted.name
        self.labels: Labels | None = None

    def load(self, task: Task) -> dict[str, Split]:
        """See `Source.load`. The hash is of the rows and of the names of their labels."""
        splits = super().load(task)
        self._hashes[task.name] = digest(
            json.dumps([self.labels.kind, self.labels.names, self._hashes[task.name]]).encode()
        )
        return splits

    def _read(self, task: Task) -> dict[str, Split]:
        wanted, notes = self.wanted, self.notes[task.name]
        parts = read_parts(wanted)
        self.labels = labels_of(parts["train"], wanted.label, wanted.kind)
        if "test" in parts and _hidden(parts["test"], wanted.label):
            notes.append(f"{parts.pop('test').where} has no labels and is left out")
        splits = {name: self._split(part) for name, part in parts.items()}
        notes.append(_said(self.labels, splits["train"].labels))
        if "validation" not in splits:
            splits = self._with_dev(splits, parts["train"].where)
            share, rows = wanted.dev_share, len(splits["validation"])
            evenly = "over their range" if self.labels.kind == "score" else "of each class"
            notes.append(f"dev: {rows:,} rows, {share:.0%} {evenly}, cut from train by split seed {wanted.split_seed}")
        known = set(splits["train"].texts)
        for name in ("validation", "test"):
            if name in splits and (same := sum(row in known for row in splits[name].texts)):
                notes.append(f"{same:,} of {len(splits[name]):,} rows of {name} have the text of a row of train")
        return splits

    def _split(self, part: Part) -> Split:
        texts = list(zip(*(part.columns[name] for name in self.wanted.text), strict=True))
        for column, name in enumerate(self.wanted.text):
            cells = (words[column] for words in texts)
            wrong = [row for row, cell in enumerate(cells, 1) if not isinstance(cell, str) or not cell.strip()]
            if wrong:
                value = texts[wrong[0] - 1][column]
                what = "is empty" if value is None or isinstance(value, str) else f"is {value!r}, and no text"
                more = f" ({len(wrong)} rows are so)" if len(wrong) > 1 else ""
                raise UserError(f"{part.where}: row {wrong[0]}: {name!r} {what}{more}; leave such rows out")
        return Split(texts, self.labels.numbers(part, self.wanted.label))

    def _with_dev(self, splits: dict[str, Split], where: str) -> dict[str, Split]:
        train, wanted = splits["train"], self.wanted
        chosen = cut(train.labels, self.labels.kind, self.labels.names, wanted.dev_share, wanted.split_seed, where)
        dev = set(chosen)
        rest = [row for row in range(len(train)) if row not in dev]
        taken = {name: Split([train.texts[k] for k in rows], [train.labels[k] for k in rows])
                 for name, rows in (("train", rest), ("validation", chosen))}  # fmt: skip
        return taken | {name: split for name, split in splits.items() if name != "train"}


def _hidden(part: Part, columns: tuple[str, ...]) -> bool:
    """Whether the labels of a test set are kept back, as data sets of competitions have it: none, or -1."""
    return all(value in (None, "", -1, "-1") for name in columns for value in part.columns[name])


def _said(labels: Labels, rows: list[Any]) -> str:
    """Such as `labels: 3 classes: bad (40), fair (12), good (48)`."""
    if labels.kind == "score":
        return f"labels: scores from {min(rows):g} to {max(rows):g}"
    counts = Counter(rows) if labels.kind == "classes" else Counter(k for row in rows for k, on in enumerate(row) if on)
    words = [f"{name} ({counts[number]:,})" for number, name in enumerate(labels.names[:10])]
    kind = "classes" if labels.kind == "classes" else "labels, any number of them in a row"
    return f"labels: {len(labels.names)} {kind}: {', '.join(words)}{', ...' if len(labels.names) > 10 else ''}"
