"""Examples as tokens with targets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from modules.benchmarks.causal.targets import Row, tokens_of
from modules.benchmarks.instruct.rows.chat import encode
from modules.benchmarks.instruct.rows.example import Example
from modules.data.tokens import Tokens, tokenizer_hash
from variants.errors import UserError

_FORMAT = 1  # part of every cache key: raise it when the content of the files changes


def tokens_in(
    examples: Sequence[Example], split: str, tokenizer: Any, max_length: int, loss_on: str, data_hash: str
) -> tuple[Tokens, str]:
    """(the tokens of a split, what is to be said of rows that were cut, or "").

    Rows are cut behind `max_length` tokens.

    Raises:
        UserError: that leaves nothing of a response.
    """
    known = [tokenizer_hash(tokenizer), tokenizer.chat_template, max_length, loss_on]
    key = json.dumps(["instruct", _FORMAT, data_hash, split, *known])
    tokens = tokens_of(key, lambda: [_row(example, tokenizer, max_length, loss_on) for example in examples])
    if (nothing := np.flatnonzero(tokens.labels == 0)).size:
        raise UserError(
            f"{split} row {nothing[0] + 1}: its instruction fills max_length {max_length}, and nothing is left of the "
            f"response ({nothing.size:,} rows are so): raise --max_length, or leave such rows out"
        )
    full = int((tokens.lengths == max_length).sum())
    return tokens, f"{split}: {full:,} of {len(tokens):,} rows fill max_length {max_length} or are cut" if full else ""


def _row(example: Example, tokenizer: Any, max_length: int, loss_on: str) -> Row:
    ids, targets = encode(example, tokenizer, loss_on)
    return ids[:max_length], targets[:max_length]
