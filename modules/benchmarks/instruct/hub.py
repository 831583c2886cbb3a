"""Instruction data from the Hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from modules.benchmarks.instruct.tasks import Part
from modules.hub import from_hub, hub_cached
from variants.errors import UserError, first_line


def load(where: str) -> Mapping[str, Any]:
    """A data set by its id, or id:configuration; split -> rows."""
    repo, _, configuration = where.partition(":")

    def read() -> Mapping[str, Any]:
        import datasets

        return datasets.load_dataset(repo, configuration or None)

    cached = hub_cached(repo=repo, configurations=[configuration or "default"])
    return from_hub(f"data set {repo!r}", repo, cached, read)


def rows_of(part: Part, split: str) -> Iterator[tuple[str, Any]] | None:
    """The rows of a known set's split, each with where it stands; None where the Hub has none of it that is known."""
    if not part.hub:
        return None
    try:
        loaded = load(part.hub)
    except UserError:
        raise
    except Exception as error:  # any of four libraries' errors: the person needs one line
        raise UserError(f"{part.title}: data set {part.hub!r} cannot be loaded: {first_line(error)}") from error
    if split not in loaded:
        return None
    return ((f"{part.hub} ({split}): row {number}", row) for number, row in enumerate(loaded[split], 1))
