"""The columns of a person's data, split by split: from a file, a folder of files, or a data set of the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.benchmarks.custom.description import Description
from modules.data.table_files import KINDS, check_columns, read_table
from variants.errors import UserError, first_line

if TYPE_CHECKING:
    import pandas as pd

SPLITS = {"train": ("train",), "validation": ("dev", "validation", "val", "valid"), "test": ("test",)}
"""Split -> what files and the Hub's splits are called."""


@dataclass
class Part:
    """The columns of one split.

    Attributes:
        where: the file, or the data set and its split: the beginning of an error's line.
        columns: by name, a value for each row; None where there is none.
        classes: by column, the names of classes that are given as numbers.
    """

    where: str
    columns: dict[str, list[Any]]
    classes: dict[str, list[str]] = field(default_factory=dict)


def read_parts(wanted: Description) -> dict[str, Part]:
    """The named columns of each split that there is: "train" always.

    Raises:
        UserError: a file, a split or a column is missing, or cannot be read.
    """
    names = [*wanted.text, *wanted.label]
    if wanted.is_hub:
        parts = _from_hub(wanted, names)
    elif wanted.path.is_dir():
        parts = {split: _from_file(path, names) for split, path in _files(wanted.path).items()}
    else:
        if not wanted.path.exists():
            raise UserError(f"--data {wanted.where}: there is no such file or folder, and it is no Hub id")
        parts = {"train": _from_file(wanted.path, names)}
    for split, path in (("validation", wanted.dev), ("test", wanted.test)):
        if path:
            parts[split] = _from_file(Path(path).expanduser(), names)
    return parts


def _files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for split, names in SPLITS.items():
        files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in KINDS]
        own = [path for path in files if path.stem.lower() in names]
        if len(own) > 1:
            raise UserError(f"{folder} has both {own[0].name} and {own[1].name}: leave one, or name a file by --data")
        if own:
            found[split] = own[0]
    if "train" not in found:
        raise UserError(f"{folder} has no train file (train.csv, .tsv, .jsonl or .parquet); name a file by --data")
    return found


def _from_file(path: Path, names: list[str]) -> Part:
    return Part(str(path), _picked(read_table(path, names), names))


def _picked(table: pd.DataFrame, names: list[str]) -> dict[str, list[Any]]:
    return {name: [_plain(value) for value in table[name]] for name in names}


def _plain(value: Any) -> Any:
    """A cell as Python has it; None where there is none."""
    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        value = value.tolist()
    missing = value is None or value != value or type(value).__name__ in ("NAType", "NaTType")
    return None if missing else value


def _from_hub(wanted: Description, names: list[str]) -> dict[str, Part]:
    from modules.hub import from_hub, hub_cached

    repo, _, configuration = wanted.where.partition(":")

    def load() -> Mapping[str, Any]:
        import datasets

        return datasets.load_dataset(repo, configuration or None)

    cached = hub_cached(repo=repo, configurations=[configuration or "default"])
    try:
        loaded = from_hub(f"data set {repo!r}", repo, cached, load)
    except UserError:
        raise
    except Exception as error:  # any of four libraries' errors: the person needs one line
        raise UserError(f"--data {wanted.where}: cannot be loaded from the Hub: {first_line(error)}") from error
    parts = {}
    for split, known in SPLITS.items():
        for own in [name for name in known if name in loaded][:1]:
            rows, where = loaded[own], f"{wanted.where} ({own})"
            check_columns(rows.column_names, names, where)
            table = rows.select_columns(names).to_pandas()
            classes = {n: list(c) for n in names if (c := getattr(_scalar(rows.features[n]), "names", None))}
            parts[split] = Part(where, _picked(table, names), classes)
    if "train" not in parts:
        raise UserError(f"--data {wanted.where}: has no split 'train'; it has {', '.join(loaded)}")
    return parts


def _scalar(feature: Any) -> Any:
    """What a list of the Hub's features is a list of."""
    return getattr(feature, "feature", feature)
