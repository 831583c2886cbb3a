"""Columns of labels as numbers: classes, scores, or any number of labels for a row."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from modules.benchmarks.custom.files import Part
from variants.errors import UserError

MANY = 20
"""More classes than so many, and than half of the rows, are no classes."""
_WHOLE = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class Labels:
    """What the labels of the training rows are: see `TextTask`."""

    kind: str
    names: tuple[str, ...] = ()

    def numbers(self, part: Part, columns: tuple[str, ...]) -> list[Any]:
        """The label of each row as `Split` holds it.

        Raises:
            UserError: a row has none, or one that the training rows do not have; the line names the row, from 1.
        """
        known = {name: number for number, name in enumerate(self.names)}
        found = []
        for row, words in enumerate(_words(part, columns, self.kind), 1):
            if self.kind == "score":
                found.append(words[0])
                continue
            if unknown := [word for word in words if word not in known]:
                raise UserError(
                    f"{part.where}: row {row}: the label {unknown[0]!r} is not among those of the training rows: "
                    f"{_shown(self.names)}"
                )
            chosen = [known[word] for word in words]
            found.append(chosen[0] if self.kind == "classes" else [float(k in chosen) for k in range(len(self.names))])
        return found


def labels_of(part: Part, columns: tuple[str, ...], kind: str) -> Labels:
    """What the labels of the training rows are.

    Args:
        kind: `auto`, or as `TextTask.kind`.

    Raises:
        UserError: they are of no kind, or of one that cannot be learnt.
    """
    kind = _kind(part, columns) if kind == "auto" else kind
    rows = _words(part, columns, kind)
    if kind == "score":
        if len({row[0] for row in rows}) == 1:
            raise UserError(f"{part.where}: all rows have the score {rows[0][0]:g}: there is nothing to learn")
        return Labels(kind)
    column = columns[0]
    if len(columns) > 1:
        if all(row == rows[0] for row in rows):
            raise UserError(f"{part.where}: all rows have the same {', '.join(columns)}: there is nothing to learn")
        return Labels(kind, columns)
    seen = {word for row in rows for word in row}
    names = part.classes.get(column) or sorted(seen, key=_order)
    if len(seen) < 2:
        raise UserError(f"{part.where}: all rows have the label {min(seen, default='')!r}: there is nothing to learn")
    if len(names) > max(MANY, len(rows) / 2):
        raise UserError(
            f"{part.where}: {column!r} has {len(names)} different labels in {len(rows)} rows: is it a score "
            "(--label_kind score), or another column?"
        )
    return Labels(kind, tuple(names))


def _kind(part: Part, columns: tuple[str, ...]) -> str:
    """By the values themselves: lists are `multi`, numbers with a decimal point `score`, all else `classes`."""
    values = [value for value in part.columns[columns[0]] if value is not None]
    if len(columns) > 1 or any(isinstance(value, list) for value in values):
        return "multi"
    if columns[0] in part.classes:
        return "classes"
    rows = {isinstance(value, str): row for row, value in enumerate(part.columns[columns[0]], 1) if value is not None}
    if len(rows) > 1:
        raise UserError(
            f"{part.where}: {columns[0]!r} is text in some rows ({rows[True]}) and a number in others ({rows[False]}): "
            "write all as text"
        )
    numbers = [_number(value) for value in values]
    whole = all(isinstance(v, (bool, int)) or isinstance(v, str) and _WHOLE.fullmatch(v.strip()) for v in values)
    return "score" if values and not whole and all(number is not None for number in numbers) else "classes"


def _words(part: Part, columns: tuple[str, ...], kind: str) -> list[list[Any]]:
    """Of each row the names of its labels, or its score in a list."""
    found = []
    for row, values in enumerate(zip(*(part.columns[name] for name in columns), strict=True), 1):
        where = f"{part.where}: row {row}"
        if any(value is None or (isinstance(value, str) and not value.strip() and kind != "multi") for value in values):
            raise UserError(f"{where}: {columns[0]!r} is empty: a row needs a label")
        if len(columns) > 1:
            found.append([name for name, value in zip(columns, values, strict=True) if _flag(value, name, where)])
        elif kind == "multi":
            parts = values[0] if isinstance(values[0], list) else str(values[0]).split("|")
            found.append([_name(each, columns[0], part) for each in parts if str(each).strip()])
        elif kind == "score":
            if (number := _number(values[0])) is None:
                raise UserError(f"{where}: {columns[0]!r} is {values[0]!r}, which is no score")
            found.append([number])
        else:
            found.append([_name(values[0], columns[0], part)])
    return found


def _name(value: Any, column: str, part: Part) -> str:
    names = part.classes.get(column)
    if names and isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def _flag(value: Any, name: str, where: str) -> bool:
    text = str(value).strip().lower()
    if text not in ("0", "1", "true", "false", "0.0", "1.0"):
        raise UserError(f"{where}: {name!r} is {value!r}: of several label columns each holds 1 or 0")
    return text in ("1", "true", "1.0")


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and abs(number) < 1e9 else None


def _order(name: str) -> tuple[int, int, str]:
    """Numbers by their value, before words."""
    return (0, int(name), "") if _WHOLE.fullmatch(name) else (1, 0, name)


def _shown(names: tuple[str, ...]) -> str:
    return ", ".join(names[:10]) + (f", ... ({len(names)})" if len(names) > 10 else "")
