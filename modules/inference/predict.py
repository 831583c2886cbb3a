"""``predict``: what a trained run says of new texts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from modules.inference.trained import Trained, trained
from modules.runs.results import RunResult
from variants.errors import UserError, shown
from variants.variant import BaseVariant

if TYPE_CHECKING:
    import pandas as pd


def predict(
    run: str | os.PathLike[str] | RunResult,
    texts: str | Sequence[str | Sequence[str]] | Mapping[str, Sequence[str]] | pd.DataFrame,
    which: str = "best",
    *,
    model: str | os.PathLike[str] | None = None,
    variant: str | type[BaseVariant] | None = None,
    results_dir: str | os.PathLike[str] = "results",
    done: Callable[[int], object] = lambda rows: None,
) -> pd.DataFrame:
    """What a run says of new texts, on a GPU where there is one.

    Args:
        run, which, model, variant, results_dir: as `modules.load_run` takes them.
        texts: a text, or a row each: a text or, for a task on pairs, two; or a table with a column for each field of
            the task, such as GLUE's `sentence1` and `sentence2`.
        done: called with a number of rows whenever so many more are done.

    Returns:
        A row for each text: the fields, then `label` and `probability` (classes), `score` (a regression), `label` and
        each class's probability (several labels at once), or `text` (E2E, of a meaning representation).

    Raises:
        UserError: as `load_run`; or the texts are not what the task has.
    """
    found = trained(run, which, results_dir)
    return say(found, rows_of(found, texts), model, variant, done)


def rows_of(
    found: Trained, texts: str | Sequence[str | Sequence[str]] | Mapping[str, Sequence[str]] | pd.DataFrame
) -> list[tuple[str, ...]]:
    """The rows of `predict`'s texts, with as many texts each as the task has fields. Raises UserError."""
    import pandas as pd

    from modules.data.table_files import texts_of

    fields = list(found.inputs["fields"])
    if isinstance(texts, (Mapping, pd.DataFrame)):
        return texts_of(pd.DataFrame(texts), fields, "the table")
    given = [texts] if isinstance(texts, str) else texts
    if not isinstance(given, Iterable):
        raise UserError(f"expected texts, not {shown(given)}")
    rows = [tuple(row) if isinstance(row, Iterable) and not isinstance(row, str) else (row,) for row in given]
    for number, row in enumerate(rows, 1):
        if len(row) != len(fields):
            count = f"{len(fields)} texts ({', '.join(fields)})" if len(fields) > 1 else f"one text ({fields[0]})"
            raise UserError(f"row {number}: {found.task} takes {count}, not {len(row)}")
        if not all(isinstance(text, str) for text in row):
            raise UserError(f"row {number}: {row!r} is no text")
    return rows


def say(
    found: Trained,
    rows: Sequence[tuple[str, ...]],
    model: str | os.PathLike[str] | None = None,
    variant: str | type[BaseVariant] | None = None,
    done: Callable[[int], object] = lambda rows: None,
) -> pd.DataFrame:
    """As `predict`, of rows that are read already."""
    import pandas as pd
    import torch

    from modules.inference.load import loaded

    if not rows:
        raise UserError("there is no text")
    whole, tokenizer = loaded(found, model, variant, "cuda" if torch.cuda.is_available() else "cpu")
    said = found.of.predict(whole, tokenizer, rows, found.inputs, done)
    table = pd.DataFrame(rows, columns=list(found.inputs["fields"]))
    return pd.concat([table, pd.DataFrame(said)], axis=1)
