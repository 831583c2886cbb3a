"""Sentences for new meaning representations, as a run decodes its test set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from torch import nn

from modules.benchmarks.causal.decode import Decoding, decode
from modules.benchmarks.e2e.data import contexts
from modules.benchmarks.e2e.settings import SEARCH, E2ESettings
from modules.benchmarks.e2e.text import LINEARISATIONS, Slots, read_authors_mr, read_csv_mr
from variants.errors import UserError

AT_ONCE = 64
"""Meaning representations between two signs of progress."""


def describe(
    model: nn.Module,
    tokenizer: Any,
    mrs: Sequence[str],
    inputs: Mapping[str, Any],
    done: Callable[[int], object],
) -> list[dict[str, str]]:
    """The column `text` of each meaning representation.

    Args:
        mrs: in the challenge's form or the authors'.
        inputs: `linearisation` and the settings of the search, those that are lacking by their defaults.
        done: called with a number of rows whenever so many more are done.

    Raises:
        UserError: one is of neither form, or leaves no room for an output.
    """
    known = {name: inputs[name] for name in ("linearisation", *SEARCH) if name in inputs}
    E2ESettings.check(known, "inputs")
    settings = {name: setting.default for name, setting in E2ESettings.flags().items()} | known
    decoding = Decoding.of(SimpleNamespace(**settings), tokenizer)
    authors = [LINEARISATIONS["authors"](_read(mr, number)) for number, mr in enumerate(mrs, 1)]
    ids = contexts(authors, tokenizer, settings["linearisation"])
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions and (longest := max(map(len, ids), default=0)) + decoding.max_new_tokens > positions:
        raise UserError(
            f"a meaning representation of {longest} tokens and an output of {decoding.max_new_tokens} do not fit the "
            f"{positions} positions of the model: shorten it"
        )
    texts: list[str] = []
    for start in range(0, len(ids), AT_ONCE):
        part = ids[start : start + AT_ONCE]
        texts += decode(model, part, tokenizer, decoding)
        done(len(part))
    return [{"text": text} for text in texts]


def _read(mr: str, number: int) -> Slots:
    try:
        return read_csv_mr(mr) if "[" in mr else read_authors_mr(mr)
    except ValueError as error:
        raise UserError(f"row {number}: {error}") from None
