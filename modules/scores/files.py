"""References and outputs in the formats of the E2E challenge's scorer, read as it reads them.

* Plain text, outputs: one per line, an empty line being an empty output. References: those of one input on consecutive
  lines, a blank line between inputs; without any blank line each line is the only reference of its input.
* CSV or TSV (by the file's ending; comma or tab by its first line), with a header naming a column of inputs ("mr",
  "source", ...) and one of texts ("ref", "output", ...). If both files are tables, the references of an output are
  all those of its input, wherever they stand; if only the references are, equal inputs on consecutive lines are one.

A table's mis-encoded pound signs and accents are mended and its empty lines left out, as officially.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from modules.documents import read_text
from variants.errors import UserError

_INPUT = "an input", r"mr|src|source|meaning|da|dial(ogue)?[_ .-]act", "mr"
_OUTPUT = "an output", r"out|ref|sys", "output"
_REFERENCE = "a reference", r"trg|tgt|target|ref|human", "ref"
_MOJIBAKE = (("Ł", "£"), ("Â£", "£"), ("Ã©", "é"), ("ã©", "é"))  # one after the other


def read(references: Path, outputs: Path) -> tuple[list[str], list[list[str]]]:
    """(N outputs, N groups of references). Raises UserError naming the file and the mistake in it."""
    if _is_table(outputs):
        inputs, texts = _read_table(outputs, _OUTPUT)
    else:
        inputs, texts = [], read_lines(outputs)
    if not _is_table(references):
        return texts, _read_groups(references)
    rows = list(zip(*_read_table(references, _REFERENCE), strict=True))
    if not any(inputs):
        return texts, _consecutive(rows)
    groups: dict[str, list[str]] = {}
    for row_input, reference in rows:
        groups.setdefault(row_input, []).append(reference)
    if lost := [row_input for row_input in inputs if row_input not in groups]:
        raise UserError(f"{references} has no reference for the input {lost[0]!r} of {outputs}")
    return texts, [groups[row_input] for row_input in inputs]


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in (".csv", ".tsv")


def read_lines(path: Path) -> list[str]:
    """The stripped lines of a UTF-8 file, with or without BOM. Any line break of Unicode's ends one, as officially."""
    return [line.strip() for line in read_text(path).splitlines()]


def _read_groups(path: Path) -> list[list[str]]:
    lines = read_lines(path)
    groups: list[list[str]] = [[]]
    for number, line in enumerate(lines, 1):
        if line:
            groups[-1].append(line)
        elif groups[-1]:
            groups.append([])
        else:
            raise UserError(
                f"{path}, line {number}: an empty reference group (one blank line parts two inputs, and every input "
                "needs a reference)"
            )
    if not groups[-1]:
        groups.pop()
    return [[line] for line in groups[0]] if len(groups) == 1 else groups


def _consecutive(rows: list[tuple[str, str]]) -> list[list[str]]:
    groups: list[list[str]] = []
    for place, (row_input, reference) in enumerate(rows):
        if place and row_input == rows[place - 1][0]:
            groups[-1].append(reference)
        else:
            groups.append([reference])
    return groups


def _read_table(path: Path, text_column: tuple[str, str, str]) -> tuple[list[str], list[str]]:
    """(inputs, texts), row by row."""
    lines = read_lines(path)
    for wrong, right in _MOJIBAKE:
        lines = [line.replace(wrong, right) for line in lines]
    lines = [line for line in lines if line]
    if not lines:
        raise UserError(f"{path} is empty: a table needs a header and rows")
    try:
        header, *rows = csv.reader(lines, delimiter="\t" if "\t" in lines[0] else ",")
    except csv.Error as error:
        raise UserError(f"{path} is not a table: {error}") from None
    columns = [_column(path, header, wanted) for wanted in (_INPUT, text_column)]
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise UserError(f"{path}, row {number}: {len(row)} columns where the header has {len(header)}")
    inputs, texts = ([row[column] for row in rows] for column in columns)
    return inputs, texts


def _column(path: Path, header: list[str], wanted: tuple[str, str, str]) -> int:
    """Place of the only column whose name begins as the official scorer expects, in upper or lower case."""
    content, pattern, example = wanted
    found = [place for place, name in enumerate(header) if re.match(pattern, name, re.IGNORECASE)]
    if len(found) != 1:
        names = ", ".join(repr(name) for name in header)
        raise UserError(
            f"{path} has {len(found) or 'no'} columns for {content} among {names}: name exactly one of them {example!r}"
        )
    return found[0]
