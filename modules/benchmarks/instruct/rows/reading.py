"""Files of instruction data: JSON lists, JSON lines, Parquet; each row with the place that an error names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from modules.benchmarks.instruct.rows.example import Example
from modules.benchmarks.instruct.rows.forms import Malformed, example_of, form_of
from modules.data.table_files import read_table
from variants.errors import UserError, first_line

KINDS = (".json", ".jsonl", ".parquet")
SPLITS = {"train": ("train",), "validation": ("dev", "validation", "val", "valid", "eval"), "test": ("test",)}
"""Split -> what files and the Hub's splits are called."""


def read_file(path: Path, part: str = "") -> tuple[list[Example], str]:
    """(the examples of a file, the form of its rows).

    Args:
        part: of every example.

    Raises:
        UserError: it cannot be read, or a row is malformed: file, line or row, what is wrong.
    """
    if path.suffix.lower() not in KINDS:
        raise UserError(f"{path}: instruction data are in files whose names end in {', '.join(KINDS)}")
    try:
        rows = {".json": _list, ".jsonl": _lines, ".parquet": _table}[path.suffix.lower()](path)
        return examples_of(rows, part)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte 0x{error.object[error.start]:02x}); save it as UTF-8") from None


def examples_of(rows: Iterable[tuple[str, Any]], part: str = "") -> tuple[list[Example], str]:
    """(examples, form) of rows, each with where it stands.

    Raises:
        UserError: there is none, or one is malformed.
    """
    found, form, where = [], "", ""
    for where, row in rows:
        try:
            form = form or form_of(row if isinstance(row, Mapping) else {})
            example = example_of(row, form)
        except Malformed as error:
            raise UserError(f"{where}: {error}") from None
        found.append(example if not part else Example(**{**vars(example), "part": part}))
    if not found:
        raise UserError(f"{where or 'the file'}: has no rows")
    return found, form


def _list(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        lines = ", or is it JSON lines? then name it .jsonl" if error.msg == "Extra data" else ""
        raise UserError(f"{path}:{error.lineno}: is no JSON: {error.msg}{lines}") from None
    if isinstance(rows, dict) and isinstance(rows.get("data"), list):
        rows = rows["data"]
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: holds no list of rows")
    for number, row in enumerate(rows, 1):
        yield f"{path}: row {number}", row


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    empty = True
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            empty = False
            try:
                yield f"{path}:{number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: is no JSON: {error.msg} (column {error.colno})") from None
    if empty:
        raise UserError(f"{path}: has no rows")


def _table(path: Path) -> Iterator[tuple[str, Any]]:
    for number, row in enumerate(read_table(path).to_dict("records"), 1):
        yield f"{path}: row {number}", {key: _plain(value) for key, value in row.items()}


def _plain(value: Any) -> Any:
    """A cell as JSON would have it; numpy's arrays and numbers are Parquet's."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and value != value else value


def files_of(folder: Path) -> dict[str, list[Path]]:
    """The files of each split in a folder, or in its folder `data`, as the Hub has it; "train" is always there.

    A split is a file, or several of one kind: train-00000-of-00002.parquet and so on.

    Raises:
        UserError: two files are of one split, or none is of train.
    """
    found: dict[str, list[Path]] = {}
    every = [path for place in (folder, folder / "data") for path in sorted(place.glob("*"))]
    files = [path for path in every if path.suffix.lower() in KINDS]
    for split, names in SPLITS.items():
        own = [path for path in files if _split_name(path) in names]
        kinds = {(_split_name(path), path.suffix, path.parent) for path in own}
        if len(own) > 1 and (len(kinds) > 1 or any(path.stem.lower() in names for path in own)):
            raise UserError(f"{folder} has both {own[0].name} and {own[1].name}: leave one, or name a file by --data")
        if own:
            found[split] = own
    if "train" not in found:
        there = f" among {files[0].name}, ..." if files else ""
        raise UserError(
            f"{folder} has no train file (train.json, .jsonl or .parquet){there}; name a file by --data, or call it so"
        )
    return found


def _split_name(path: Path) -> str:
    """The name of a file without the number that it has among several."""
    return re.sub(r"-\d+-of-\d+$", "", path.stem.lower())
