"""Blocks by their numbers: options such as ``0-5,11``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from variants.errors import VariantError


def block_number(path: str) -> int | None:
    """The first number in a module's name, which counts the blocks."""
    number = re.search(r"(?:^|\.)(\d+)(?:\.|$)", path)
    return int(number[1]) if number else None


def after_block(path: str) -> str:
    """What follows the block's number in a module's name; the whole name where nothing does."""
    number = re.search(r"(?:^|\.)\d+\.", path)
    return path[number.end() :] if number else path


def ranges(layers: str) -> list[range]:
    """The parts of an option such as ``0-5,11``; they take no memory, however far they reach.

    Raises:
        VariantError: it is no such list.
    """
    found = []
    for part in layers.split(","):
        ends = re.fullmatch(r"\s*([0-9]{1,18})(?:\s*-\s*([0-9]{1,18}))?\s*", part)
        if not ends:
            raise VariantError(f"layers={layers[:80]!r} is not a list of numbers and ranges such as 0-5,11")
        first, last = int(ends[1]), int(ends[2] or ends[1])
        if first > last:
            raise VariantError(f"layers={layers[:80]!r} counts down: write {last}-{first} for {part.strip()}")
        found.append(range(first, last + 1))
    return found


def chosen_blocks(layers: str, there: Iterable[int | None], of: str, apart: Sequence[str] = ()) -> set[int]:
    """The blocks, among those that are ``there``, that an option names; all of them where it is empty.

    Args:
        of: what has these blocks, for messages.
        apart: rows of blocks that are numbered each for itself, so that a number names none.

    Raises:
        VariantError: it is no such list, or names a block that is not there, or no block at all.
    """
    found = {number for number in there if number is not None}
    if not layers:
        return found
    if apart:
        raise VariantError(
            f"layers={layers[:80]!r}: {of} numbers its {', '.join(apart)} each for itself: leave layers out and name "
            f"blocks by target, such as '{apart[-1]}.1.*to_q,{apart[-1]}.1.*to_v'"
        )
    if not found:
        raise VariantError(f"layers={layers[:80]!r}, but {of} has no numbered blocks")
    wanted = ranges(layers)
    for number in (end for each in wanted for end in (each[0], each[-1])):
        if number not in found:
            raise VariantError(f"layers={layers[:80]!r}: there is no block {number}; {of} has {_spans(found)}")
    return {number for number in found if any(number in each for each in wanted)}


def _spans(numbers: set[int]) -> str:
    """Numbers as such an option: ``0-5,11``."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
