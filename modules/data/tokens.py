"""Tokenise once: flat arrays of token ids, kept in a cache file that later runs and all ranks of a node map.

A file is named by what decides its content: the rows, the tokenizer and the length limit. The cache folder is
LORA_VARIANTS_CACHE, by default ~/.cache/lora-variants. Losing it, or being unable to write it, costs only time.
"""

import itertools
import json
from dataclasses import dataclass

import numpy as np

from modules.data.cache import cache_dir, cached_arrays, digest
from modules.data.source import Split

_FORMAT = 2  # part of every key: raise it when the content of the files changes
_CHUNK = 10_000  # rows given to the tokenizer at once: bounds the memory of its Python lists


@dataclass
class Tokens:
    """A tokenised split of N rows, not padded.

    `ids[offsets[i]:offsets[i + 1]]` are the token ids of row i (uint16 or int32); `types`, where the tokenizer makes
    token type ids, has the same layout (uint8). `labels` is (N,) int64 or float32.
    """

    ids: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    types: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per row, (N,) int64."""
        return np.diff(self.offsets)


def tokenise(splits: dict[str, Split], tokenizer, max_length: int, data_hash: str) -> dict[str, Tokens]:
    """Tokenises each split, or maps it from the cache; rows longer than `max_length` are cut (longest text first)."""
    tokenizer_key = tokenizer_hash(tokenizer)
    result = {}
    for name, split in splits.items():
        key = digest(json.dumps([_FORMAT, data_hash, name, tokenizer_key, max_length]).encode())[:24]
        arrays = cached_arrays(
            cache_dir() / "tokens" / f"{key}.safetensors", lambda s=split: _encode(s, tokenizer, max_length)
        )
        labels = np.asarray(split.labels)
        labels = labels.astype(np.float32 if labels.dtype.kind == "f" else np.int64)
        result[name] = Tokens(arrays["ids"], arrays["offsets"], labels, arrays.get("types"))
    return result


def _encode(split: Split, tokenizer, max_length: int) -> dict[str, np.ndarray]:
    """The flat arrays of one split (see `Tokens`)."""
    names = [name for name in ("input_ids", "token_type_ids") if name in tokenizer.model_input_names]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    lengths: list[int] = []
    for start in range(0, len(split), _CHUNK):
        columns = zip(*split.texts[start : start + _CHUNK], strict=True)
        encoded = tokenizer(
            *(list(column) for column in columns),
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids="token_type_ids" in names,
            verbose=False,
        )
        lengths.extend(map(len, encoded["input_ids"]))
        for name in names:
            parts[name].append(np.fromiter(itertools.chain.from_iterable(encoded[name]), dtype=np.int32))
    flat = {name: np.concatenate(chunks) for name, chunks in parts.items()}
    ids = flat["input_ids"]
    arrays = {
        "ids": ids.astype(np.uint16) if ids.max(initial=0) < 2**16 else ids,
        "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    }
    if "token_type_ids" in flat:
        arrays["types"] = flat["token_type_ids"].astype(np.uint8)
    return arrays


def tokenizer_hash(tokenizer) -> str:
    """SHA-256 (hex) of all that decides what a tokenizer returns; its padding and truncation state is left out."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = json.loads(backend.to_str())
        content.pop("truncation", None)  # set by the last call, not by the tokenizer's files
        content.pop("padding", None)
    else:
        content = [tokenizer.get_vocab(), repr(tokenizer)]
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    settings = [tokenizer.model_input_names, tokenizer.truncation_side]
    return digest(json.dumps([type(tokenizer).__name__, content, special, settings], sort_keys=True).encode())
