"""Tables in files, read as columns of text: CSV, TSV, JSON lines, Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from variants.errors import UserError, first_line

if TYPE_CHECKING:
    import pandas as pd

KINDS = (".csv", ".tsv", ".jsonl", ".parquet")


def read_table(path: Path) -> pd.DataFrame:
    """The rows of a file, whose name says what it is; an empty cell is an empty text.

    Raises:
        UserError: it is of none of the `KINDS`, cannot be read, or has no rows.
    """
    import pandas as pd

    if path.suffix.lower() not in KINDS:
        raise UserError(f"{path}: a table's name ends in {', '.join(KINDS)}")
    as_text = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig"}
    readers = {
        ".csv": lambda: pd.read_csv(path, **as_text),
        ".tsv": lambda: pd.read_csv(path, sep="\t", quoting=3, **as_text),
        ".jsonl": lambda: pd.read_json(path, lines=True, dtype=False, convert_dates=False),
        ".parquet": lambda: pd.read_parquet(path),
    }
    try:
        table = readers[path.suffix.lower()]()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte 0x{error.object[error.start]:02x})") from None
    except Exception as error:  # pandas raises a dozen kinds
        raise UserError(f"{path}: is no {path.suffix[1:]} table: {first_line(error)}") from None
    if not len(table):
        raise UserError(f"{path}: has no rows")
    return table


def texts_of(table: pd.DataFrame, columns: list[str], where: str) -> list[tuple[str, ...]]:
    """The texts of each row, in the order of the columns.

    Raises:
        UserError: a column is not there, or a cell of it is no text.
    """
    if missing := [name for name in columns if name not in table.columns]:
        raise UserError(f"{where}: there is no column {missing[0]!r}; it has {', '.join(map(str, table.columns))}")
    rows = list(zip(*(table[name] for name in columns), strict=True))
    for number, row in enumerate(rows, 1):
        if wrong := [name for name, cell in zip(columns, row, strict=True) if not isinstance(cell, str)]:
            raise UserError(f"{where}: row {number}: {wrong[0]} is no text")
    return rows
