"""Tables for a terminal: columns that align, in as much width as there is."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence

NARROWEST = 18
"""Characters that the first column keeps however narrow the terminal is."""
GAP = "  "


def width() -> int:
    """Characters of a line: the terminal's, 100 where there is none; between 40 and 160."""
    return max(40, min(160, shutil.get_terminal_size((100, 24)).columns))


def text_table(lines: Sequence[Sequence[str]], wide: int | None = None) -> str:
    """The lines of a table, its heading first, in columns: the first to the left, all others to the right.

    What does not fit is broken: first the texts of the first column, over several lines; then the columns, into several
    tables that each begin with the first column.

    Args:
        lines: cells, as many in each line.
        wide: characters of a line; the terminal's by default.
    """
    wide = wide or width()
    first, *others = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    room = wide - sum(len(GAP) + size for size in others)
    if room < min(first, NARROWEST):  # several tables: then a third of the line for the first column
        room = max(NARROWEST, wide // 3)
    first = min(first, room)
    parts = _parts(others, wide - first)
    names = [line[0] for line in lines]
    return "\n\n".join(_part(names, [[line[1 + k] for k in part] for line in lines], first) for part in parts)


def _parts(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Columns in as few groups as there must be, each with about as many."""

    def grouped(most: int) -> list[list[int]]:
        found: list[list[int]] = [[]]
        for column in range(len(sizes)):
            taken = sum(len(GAP) + sizes[k] for k in [*found[-1], column])
            if found[-1] and (taken > room or len(found[-1]) == most):
                found.append([])
            found[-1].append(column)
        return found

    fewest = len(grouped(len(sizes)))
    return next(groups for most in range(1, len(sizes) + 1) if len(groups := grouped(most)) == fewest)


def _part(names: Sequence[str], cells: Sequence[Sequence[str]], first: int) -> str:
    sizes = [max(map(len, column)) for column in zip(*cells, strict=True)]
    text = []
    for number, (name, line) in enumerate(zip(names, cells, strict=True)):
        broken = textwrap.wrap(name, first, subsequent_indent="  " if first > 4 else "", break_on_hyphens=False) or [""]
        figures = "".join(GAP + cell.rjust(size) for cell, size in zip(line, sizes, strict=True))
        text += [(broken[0].ljust(first) + figures).rstrip(), *broken[1:]]
        if number == 0:
            text.append("-" * (first + len(figures)))
    return "\n".join(text)
