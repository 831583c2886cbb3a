"""Instruction data from the Hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from modules.benchmarks.instruct.known_sets import KNOWN_SETS, KnownSet
from modules.benchmarks.instruct.tasks import Part
from modules.hub import from_hub, hub_cached
from variants.errors import UserError, first_line


def load(where: str, revision: str | None = None) -> Mapping[str, Any]:
    """A data set by its id, or id:configuration; split -> rows."""
    repo, _, configuration = where.partition(":")

    def read() -> Mapping[str, Any]:
        import datasets

        return datasets.load_dataset(repo, configuration or None, revision=revision)

    cached = hub_cached(repo=repo, configurations=[configuration or "default"])
    return from_hub(f"data set {repo!r}", repo, cached, read)


def rows_of(part: Part, split: str) -> Iterator[tuple[str, Any]] | None:
    """The rows of a known set's split, each with where it stands; None where the Hub has none of it that is known.

    Raises:
        UserError: the Hub has it, and it cannot be read.
    """
    known = KNOWN_SETS.get(part.name)
    if known is None or split not in known.splits:
        return None
    try:
        loaded = load(known.where, known.revision)
    except UserError:
        raise
    except Exception as error:  # any of four libraries' errors: the person needs one line
        raise UserError(f"{part.title}: data set {known.where!r} cannot be loaded: {first_line(error)}") from error
    return _rows(known, loaded, split)


def _rows(known: KnownSet, loaded: Mapping[str, Any], split: str) -> Iterator[tuple[str, Any]]:
    for own in known.splits[split]:
        if own not in loaded:
            raise UserError(f"data set {known.where!r} has no split {own!r}; it has {', '.join(loaded)}")
        for number, row in enumerate(loaded[own], 1):
            where = f"{known.where} ({own}): row {number}"
            try:
                yield where, known.written(row) if known.written else row
            except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
                raise UserError(f"{where} is not as it was published ({first_line(error)})") from None
