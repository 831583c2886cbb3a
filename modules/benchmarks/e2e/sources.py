"""Where E2E's rows come from: the Hub, a folder (the challenge's CSV files or the LoRA authors' text), the generator.

Rows are `modules.data.source.Split`s: texts[i] is (meaning representation, sentence), both as the LoRA authors write
them; labels[i] is the number of the meaning representation, from 0 in the order of first appearance in the split.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from modules.benchmarks.e2e.text import LINEARISATIONS, Slots, read_authors_mr, read_csv_mr, spaced
from modules.data.source import Source, Split, read_lines
from modules.hub import from_hub, hub_cached
from variants.errors import UserError, first_line

REPO = "tuetschek/e2e_nlg"
REVISION = "refs/convert/parquet"  # the main branch holds a loading script, which `datasets` no longer runs
_RESTORE = "restore the official file (https://github.com/tuetschek/e2e-dataset)"
_CSV = {"train": "trainset.csv", "validation": "devset.csv", "test": "testset_w_refs.csv"}
_TEXT = {"train": "train.txt", "validation": "valid.txt", "test": "test.txt"}

Pair = tuple[Slots, str]


def as_split(pairs: Iterable[Pair]) -> Split:
    """(slots, sentence in the authors' form) pairs as a split, rows grouped by number."""
    numbers: dict[str, int] = {}
    split = Split()
    for slots, sentence in pairs:
        text = LINEARISATIONS["authors"](slots)
        split.texts.append((text, sentence))
        split.labels.append(numbers.setdefault(text, len(numbers)))
    return split


class E2ESource(Source):
    """What the three have in common."""

    restore = _RESTORE


class EmbeddedSource(E2ESource):
    """Restaurants made by the project's own generator: needs no file and no network, deterministic by seed."""

    kind = "embedded"

    def __init__(self, seed: int = 0):
        super().__init__()
        self.seed, self.name = seed, f"embedded-e2e(seed {seed})"

    def _read(self, task) -> dict[str, Split]:
        from modules.embedded.restaurants import generate

        return {name: as_split(pairs) for name, pairs in generate(self.seed).items()}


class FolderSource(E2ESource):
    """A folder with the challenge's trainset.csv, devset.csv and testset_w_refs.csv, or the authors' train.txt, ..."""

    kind = "folder"

    def __init__(self, folder: str | os.PathLike):
        super().__init__()
        self.folder = Path(folder).expanduser()
        self.spec = str(self.folder)
        self.name = self.folder.resolve().name
        if not self.folder.is_dir():
            raise UserError(
                f"data folder {str(folder)!r} does not exist; name the folder that holds {', '.join(_CSV.values())}"
            )

    def _read(self, task) -> dict[str, Split]:
        for names, read in ((_CSV, read_csv), (_TEXT, read_text)):
            if any((self.folder / name).exists() for name in names.values()):
                return {split: as_split(read(self.folder / name, split)) for split, name in names.items()}
        raise UserError(
            f"data folder {str(self.folder)!r} has neither {', '.join(_CSV.values())} nor {', '.join(_TEXT.values())}"
        )


def read_csv(path: Path, split: str) -> list[Pair]:
    """The challenge's CSV: a header with the columns mr and ref, UTF-8 with or without BOM.

    Raises:
        UserError: naming file and line, for a missing file or column, bad UTF-8, or what is no meaning representation.
    """
    text = "\n".join(line for _, line in read_lines(path, _RESTORE))
    reader = csv.reader(io.StringIO(text), strict=True)
    pairs: list[Pair] = []
    try:
        header = next(reader, [])
        lacking = [name for name in ("mr", "ref") if name not in header]
        if lacking:
            raise UserError(
                f"{path}:1: expected a header with the column {lacking[0]!r}, found {', '.join(header)!r}; {_RESTORE}"
            )
        mr, ref = header.index("mr"), header.index("ref")
        for row in reader:
            if len(row) != len(header):
                raise UserError(
                    f"{path}:{reader.line_num}: expected {len(header)} columns, found {len(row)}; {_RESTORE}"
                )
            pairs.append(_pair(read_csv_mr, row[mr], spaced(row[ref], split), f"{path}:{reader.line_num}"))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not CSV ({error}); {_RESTORE}") from None
    return pairs


def read_text(path: Path, split: str) -> list[Pair]:
    """The authors' text file: `meaning representation||sentence` on each line. Raises UserError as `read_csv` does."""
    pairs = []
    for number, line in read_lines(path, _RESTORE):
        parts = line.split("||")
        if len(parts) != 2:
            raise UserError(f"{path}:{number}: expected a meaning representation, || and a sentence; {_RESTORE}")
        pairs.append(_pair(read_authors_mr, parts[0], parts[1].strip(), f"{path}:{number}"))
    return pairs


def _pair(read: Callable[[str], Slots], mr: str, sentence: str, where: str) -> Pair:
    try:
        slots = read(mr)
    except ValueError as error:
        raise UserError(f"{where}: {error}; {_RESTORE}") from None
    if not sentence:
        raise UserError(f"{where}: the sentence is empty; {_RESTORE}")
    return slots, sentence


class HubSource(E2ESource):
    """`datasets.load_dataset` of the challenge's data; `name` gains the revision once it is known."""

    kind = "hub"

    def __init__(self, repo: str = REPO):
        super().__init__()
        self.repo = self.name = repo

    def _read(self, task) -> dict[str, Split]:
        def prepare() -> tuple[Any, Any]:
            import datasets

            builder = datasets.load_dataset_builder(self.repo, "default", revision=REVISION)
            builder.download_and_prepare()
            return builder, builder.as_dataset()

        cached = hub_cached(repo=self.repo, configurations=["default"])
        try:
            builder, loaded = from_hub(f"data set {self.repo!r}", self.repo, cached, prepare)
        except UserError:
            raise
        except Exception as error:  # any of four libraries' errors: the person needs one line
            raise UserError(f"data set {self.repo!r} cannot be loaded: {first_line(error)}") from error
        self.name = f"{self.repo}@{builder.hash[:8]}"
        columns = ("meaning_representation", "human_reference")
        splits = {}
        for name in _CSV:
            if name not in loaded:
                raise UserError(f"data set {self.name} has no split {name!r}; found {', '.join(loaded)}")
            lacking = [column for column in columns if column not in loaded[name].column_names]
            if lacking:
                raise UserError(f"data set {self.name} has no column {lacking[0]!r}")
            rows = zip(*(loaded[name][column][:] for column in columns), strict=True)
            where = f"data set {self.name}, {name} row"
            splits[name] = as_split(
                _pair(read_csv_mr, mr, spaced(ref, name), f"{where} {i}") for i, (mr, ref) in enumerate(rows)
            )
        return splits
