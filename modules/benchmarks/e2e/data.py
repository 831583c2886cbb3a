"""E2E's batches: context, separator, sentence, end; the loss is on the sentence and its end alone.

As the LoRA authors' code has it (gpt2_encode.py with add_bos and add_eos): tokens of the meaning representation, the
end token as separator, tokens of the sentence after a blank, the end token.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from modules.benchmarks.e2e.text import LINEARISATIONS, read_authors_mr
from modules.data.cache import cache_dir, cached_arrays, digest
from modules.data.module import PaddedDataModule
from modules.data.padding import PaddedRows
from modules.data.samplers import Rows
from modules.data.source import Split
from modules.data.tokens import Tokens, tokenizer_hash
from variants.errors import UserError

MULTIPLE = 128
"""Target tokens of a filled batch come in multiples of this: few shapes, little waste."""

_FORMAT = 1  # part of every cache key: raise it when the content of the files changes


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
    """ "train" and "validation" as flat token ids, from the cache where it has them; `labels` are lengths of contexts.

    Rows are cut at `max_length`. Raises UserError where that leaves nothing of a sentence.
    """
    result = {}
    for name in ("train", "validation"):
        key = json.dumps(["e2e", _FORMAT, data_hash, name, tokenizer_hash(tokenizer), max_length, linearisation])
        path = cache_dir() / "tokens" / f"{digest(key.encode())[:24]}.safetensors"
        arrays = cached_arrays(path, lambda s=splits[name]: _encode(s, tokenizer, max_length, linearisation))
        tokens = Tokens(arrays["ids"], arrays["offsets"], arrays["contexts"])
        if (short := np.flatnonzero(tokens.lengths <= tokens.labels)).size:
            raise UserError(
                f"the meaning representation of {name} row {short[0]} fills max_length {max_length}: raise --max_length"
            )
        result[name] = tokens
    return result


def _encode(split: Split, tokenizer, max_length: int, linearisation: str) -> dict[str, np.ndarray]:
    number = {label: mr for (mr, _), label in zip(split.texts, split.labels, strict=True)}
    context = dict(zip(number, contexts(list(number.values()), tokenizer, linearisation), strict=True))
    sentences = tokenizer([f" {text}" for _, text in split.texts], add_special_tokens=False, verbose=False)["input_ids"]
    pairs = zip(split.labels, sentences, strict=True)
    rows = [(context[label] + ids + [tokenizer.eos_token_id])[:max_length] for label, ids in pairs]
    return {
        "ids": np.concatenate([np.asarray(row, np.int32) for row in rows]),
        "offsets": np.cumsum([0, *map(len, rows)]).astype(np.int64),
        "contexts": np.asarray([len(context[label]) for label in split.labels], np.int64),
    }


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


class TargetRows(PaddedRows):
    """Adds to a padded batch where the sentences' tokens are predicted: K of them, over all rows.

    positions (K,): of the predicting token in the flattened batch (B x T); targets (K,): the ids to predict;
    weights (K,): each has its row's. With ``fill`` K is a multiple of `MULTIPLE`, the last ones of weight 0.
    """

    def __getitem__(self, batch: Rows) -> dict[str, torch.Tensor]:
        result = super().__getitem__(batch)
        context = result.pop("labels")
        place = torch.arange(result["input_ids"].shape[1])
        is_target = (place >= context[:, None]) & (result["attention_mask"] == 1)
        rows, columns = is_target.nonzero(as_tuple=True)
        filler = -len(rows) % MULTIPLE if self.fill else 0
        return result | {
            "positions": F.pad(rows * len(place) + columns - 1, (0, filler)),
            "targets": F.pad(result["input_ids"][is_target], (0, filler)),
            "weights": F.pad(result["weight"][rows], (0, filler)),
        }


class E2EDataModule(PaddedDataModule):
    """Batches of `TargetRows`; a row has as many losses as its sentence has tokens, its end included."""

    rows_type = TargetRows

    def units(self, tokens: Tokens) -> np.ndarray:
        """Tokens of each row's sentence, its end included, (N,)."""
        return tokens.lengths - tokens.labels
