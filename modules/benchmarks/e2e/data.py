"""E2E's batches: context, separator, sentence, end; the loss is on the sentence and its end alone.

As the LoRA authors' code has it (gpt2_encode.py with add_bos and add_eos): tokens of the meaning representation, the
end token as separator, tokens of the sentence after a blank, the end token.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from modules.benchmarks.causal.targets import Row, tokens_of
from modules.benchmarks.e2e.text import LINEARISATIONS, read_authors_mr
from modules.data.source import Split
from modules.data.tokens import Tokens, tokenizer_hash
from variants.errors import UserError

_FORMAT = 2  # part of every cache key: raise it when the content of the files changes


def written(mr: str, linearisation: str) -> str:
    """A meaning representation in the authors' form -> in another."""
    return LINEARISATIONS[linearisation](read_authors_mr(mr))


def contexts(mrs: list[str], tokenizer, linearisation: str) -> list[list[int]]:
    """Token ids of meaning representations, with the separator at the end."""
    texts = [written(mr, linearisation) for mr in mrs]
    return [ids + [tokenizer.eos_token_id] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def encode(
    splits: dict[str, Split], tokenizer, max_length: int, linearisation: str, data_hash: str
) -> dict[str, Tokens]:
    """ "train" and "validation" as flat token ids, from the cache where it has them.

    Rows are cut at `max_length`. Raises UserError where that leaves nothing of a sentence.
    """
    result = {}
    for name in ("train", "validation"):
        key = json.dumps(["e2e", _FORMAT, data_hash, name, tokenizer_hash(tokenizer), max_length, linearisation])
        tokens = tokens_of(key, lambda split=splits[name]: _rows(split, tokenizer, max_length, linearisation))
        if (short := np.flatnonzero(tokens.labels == 0)).size:
            raise UserError(
                f"the meaning representation of {name} row {short[0]} fills max_length {max_length}: raise --max_length"
            )
        result[name] = tokens
    return result


def _rows(split: Split, tokenizer, max_length: int, linearisation: str) -> list[Row]:
    number = {label: mr for (mr, _), label in zip(split.texts, split.labels, strict=True)}
    context = dict(zip(number, contexts(list(number.values()), tokenizer, linearisation), strict=True))
    sentences = tokenizer([f" {text}" for _, text in split.texts], add_special_tokens=False, verbose=False)["input_ids"]
    rows = []
    for label, ids in zip(split.labels, sentences, strict=True):
        row = (context[label] + ids + [tokenizer.eos_token_id])[:max_length]
        rows.append((row, np.arange(len(row)) >= len(context[label])))
    return rows


@dataclass(frozen=True)
class Inputs:
    """The distinct meaning representations of a split, in the order of first appearance, with all their sentences."""

    mrs: list[str]
    ids: list[list[int]]
    references: list[list[str]]


def grouped(split: Split) -> dict[str, list[str]]:
    """Each meaning representation, in the order of first appearance, with all its sentences."""
    groups: dict[str, list[str]] = {}
    for mr, sentence in split.texts:
        groups.setdefault(mr, []).append(sentence)
    return groups


def inputs_of(split: Split, tokenizer, linearisation: str) -> Inputs:
    """The meaning representations of a split, as decoding takes them."""
    groups = grouped(split)
    return Inputs(list(groups), contexts(list(groups), tokenizer, linearisation), list(groups.values()))
