"""`--select split`: half of the dev rows choose, the other half is scored.

GLUE's test labels are not public, so the papers choose the best epoch on the very rows that they report. With the split
nothing is chosen on what is scored; the test split is not touched either way.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np

from modules.data.tokens import Tokens

SEED = 0
"""Of the draw: the halves are the same for every run, so that methods are compared on the same rows."""


def halves(splits: Mapping[str, Tokens], dev: Sequence[str]) -> dict[str, Tokens]:
    """The splits with a half of each dev split under its name, and the other halves together as "test"."""
    found, scored = dict(splits), []
    for name in (name for name in dev if name in splits):
        rows = list(range(len(splits[name])))
        random.Random(SEED).shuffle(rows)
        middle = len(rows) // 2
        found[name] = taken(splits[name], sorted(rows[:middle]))
        scored.append(taken(splits[name], sorted(rows[middle:])))
    return found | {"test": joined(scored)}


def taken(tokens: Tokens, rows: Sequence[int]) -> Tokens:
    """Some rows of a split."""
    index = np.asarray(rows, dtype=np.int64)
    kept = np.concatenate([np.arange(tokens.offsets[row], tokens.offsets[row + 1]) for row in index])
    offsets = np.concatenate([[0], np.cumsum(tokens.lengths[index])]).astype(np.int64)
    types = None if tokens.types is None else tokens.types[kept]
    return Tokens(tokens.ids[kept], offsets, tokens.labels[index], types)


def joined(parts: Sequence[Tokens]) -> Tokens:
    """Several splits as one."""
    lengths = np.concatenate([part.lengths for part in parts])
    return Tokens(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([part.labels for part in parts]),
        None if parts[0].types is None else np.concatenate([part.types for part in parts]),
    )
