"""Tables in files, read as columns of text: CSV, TSV, JSON lines, Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from variants.errors import UserError, first_line

if TYPE_CHECKING:
    import pandas as pd

KINDS = (".csv", ".tsv", ".jsonl", ".parquet")


def read_table(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows of a file, whose name says what it is; CSV and TSV hold texts alone, and are UTF-8 with a header.

    Args:
        columns: keep these alone: the others of a large file take no memory.

    Raises:
        UserError: it is of none of the `KINDS`, cannot be read, lacks a column, or has no rows.
    """
    import pandas as pd

    kind = path.suffix.lower()
    if kind not in KINDS:
        raise UserError(f"{path}: a table's name ends in {', '.join(KINDS)}")
    try:
        if kind == ".jsonl":
            table = pd.DataFrame(_json_lines(path))
        elif kind == ".parquet":
            check_columns(_parquet_columns(path), columns or (), str(path))
            table = pd.read_parquet(path, columns=columns and list(columns))
        else:
            table = pd.DataFrame(_separated(path, kind, columns), dtype=object)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte 0x{error.object[error.start]:02x}); save it as UTF-8") from None
    except Exception as error:  # pandas raises a dozen kinds
        raise UserError(f"{path}: is no {kind[1:]} table: {first_line(error)}") from None
    if not len(table):
        raise UserError(f"{path}: has no rows")
    check_columns(list(table.columns), columns or (), str(path))
    return table


def _separated(path: Path, kind: str, columns: Sequence[str] | None) -> dict[str, list[str]]:
    """The columns of a CSV or TSV file. Of the readers at hand Python's alone drops no cell without a word."""
    csv.field_size_limit(2**31 - 1)  # of a long text
    form = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if kind == ".tsv" else {"strict": True}
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, **form)
        header = next(lines, [])
        check_columns(header, columns or (), str(path))
        if twice := [name for name in columns or header if header.count(name) > 1]:
            raise UserError(f"{path}: the header has {twice[0]!r} {header.count(twice[0])} times: rename or drop one")
        places = {name: header.index(name) for name in columns or header}
        found: dict[str, list[str]] = {name: [] for name in places}
        for cells in lines:
            if len(cells) != len(header) and cells:  # a blank line is none
                quotes = "; a text that holds a comma stands in quotes" if kind == ".csv" else ""
                raise UserError(
                    f"{path}:{lines.line_num}: {len(cells)} cells, and the header has {len(header)}{quotes}"
                )
            for name, place in places.items() if cells else ():
                found[name].append(cells[place])
    return found


def _json_lines(path: Path) -> list[Any]:
    """What stands on each line. The decoder counts from the line's own beginning: the file's line is named here."""
    rows = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            try:
                if line.strip():
                    rows.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{path}:{number}: is no JSON: {str(error).split(': line')[0]}") from None
    return rows


def _parquet_columns(path: Path) -> list[str]:
    from pyarrow.parquet import read_schema

    return list(read_schema(path).names)


def check_columns(there: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Raise UserError naming the first column that is not there, and those that are."""
    if missing := [name for name in wanted if name not in there]:
        raise UserError(
            f"{where}: there is no column {missing[0]!r}; it has {', '.join(map(str, there)) or 'no column'}"
        )


def texts_of(table: pd.DataFrame, columns: list[str], where: str) -> list[tuple[str, ...]]:
    """The texts of each row, in the order of the columns.

    Raises:
        UserError: a column is not there, or a cell of it is no text.
    """
    check_columns(list(table.columns), columns, where)
    rows = list(zip(*(table[name] for name in columns), strict=True))
    for number, row in enumerate(rows, 1):
        if wrong := [name for name, cell in zip(columns, row, strict=True) if not isinstance(cell, str)]:
            raise UserError(f"{where}: row {number}: {wrong[0]} is no text")
    return rows
