"""A dev split cut from the training rows: the same share of each class, the same rows whoever cuts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from variants.errors import UserError

BINS = 10
"""Scores are stratified by as many equal parts of their order."""


def cut(labels: Sequence[Any], kind: str, names: Sequence[str], share: float, seed: int, where: str) -> list[int]:
    """Numbers of the rows of the dev split, in order; at least one of each class, and of each at least one stays.

    Args:
        labels: of all rows, as `Split` holds them.
        kind, names: of the labels (`TextTask`).

    Raises:
        UserError: a class has too few rows; the line begins with `where`.
    """
    if len(labels) < 2:
        raise UserError(f"{where}: {len(labels)} row is too few to cut a dev split from: name one by --dev")
    groups: dict[Hashable, list[int]] = {}
    for row, key in enumerate(_strata(labels, kind)):
        groups.setdefault(key, []).append(row)
    if kind == "classes" and (small := [key for key, rows in groups.items() if len(rows) < 2]):
        raise UserError(
            f"{where}: {names[small[0]]!r} has one row alone, which cannot be in train and in dev: leave it out, add "
            "rows, or name a dev split by --dev"
        )
    chosen: list[int] = []
    order = np.random.Generator(np.random.PCG64(seed))
    for _, rows in sorted(groups.items(), key=lambda item: item[0]):
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        chosen += order.permutation(rows)[:count].tolist()
    return sorted(chosen)


def _strata(labels: Sequence[Any], kind: str) -> list[Hashable]:
    """Of each row the group of which the dev split has its share."""
    if kind == "classes":
        return list(labels)
    if kind == "score":
        places = np.argsort(np.argsort(np.asarray(labels), kind="stable"), kind="stable")
        return (places * max(1, min(BINS, len(labels) // 2)) // len(labels)).tolist()
    sets = [tuple(row) for row in labels]
    counts = Counter(sets)
    return [key if counts[key] > 1 else () for key in sets]  # sets of labels that one row has are one group
