"""Text files as a stream of tokens for pretraining, encoded by several processes.

Documents are separated by empty lines, and each ends with the end token. The stream is kept in the cache of
`modules/data/cache.py`: a second call on the same files starts at once.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import multiprocessing
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from modules.data.cache import cache_dir, cached_arrays, digest
from modules.data.tokens import tokenizer_hash
from modules.processes import end_with_parent
from variants.errors import UserError

OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
HELD_OUT = 200
"""One document in so many is held out."""
_CHUNK = 1_000_000  # characters that a process takes at once


def token_stream(files: Sequence[str], tokenizer, processes: int | None = None) -> dict[str, np.ndarray]:
    """Token ids (tokens,) by "train" and "held_out": uint16 where the vocabulary allows, else int32.

    Whether a document is held out depends on its text alone.

    Args:
        files: plain text, .gz, .bz2 or .xz, in UTF-8.
        tokenizer: a fast one of transformers.
        processes: by default one for each core.

    Raises:
        UserError: a file cannot be read, or there is no text.
    """
    key = [_file_hash(name) for name in files] + [tokenizer_hash(tokenizer), HELD_OUT, "sum 2"]
    path = cache_dir() / "corpora" / f"{digest(json.dumps(key).encode())[:24]}.safetensors"
    streams = cached_arrays(path, lambda: _encode(files, tokenizer, processes))
    if not len(streams["train"]):
        raise UserError(f"{', '.join(files)}: there is no text to train on")
    return streams


def chunks(files: Sequence[str]) -> Iterator[list[str]]:
    """The documents of all files, in groups of about `_CHUNK` characters. Files are unpacked at the same time."""
    group, size = [], 0
    with ThreadPoolExecutor(len(files)) as readers:  # unpacking leaves Python free
        for text in readers.map(read_text, files):
            for document in filter(str.strip, text.split("\n\n")):
                group.append(document)
                size += len(document)
                if size >= _CHUNK:
                    yield group
                    group, size = [], 0
    if group:
        yield group


def read_text(name: str) -> str:
    """The text of a file: plain, .gz, .bz2 or .xz, in UTF-8. Raises UserError where it cannot be read."""
    try:
        with OPENERS.get(Path(name).suffix, open)(name, "rb") as file:
            return file.read().decode("utf-8").replace("\r\n", "\n")
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise UserError(f"--text: {name} cannot be read: {' '.join(str(error).split())}") from None


def _encode(files: Sequence[str], tokenizer, processes: int | None) -> dict[str, np.ndarray]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = processes or cores or 1
    setup = (tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token_id, len(tokenizer) <= 2**16)
    if processes == 1:
        _open_tokenizer(*setup)
        parts = list(map(_tokens, chunks(files)))
    else:  # spawned: a fork would copy the tokenizer's threads half-way
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, spawn, _begin, setup) as pool:
            parts = list(pool.map(_tokens, chunks(files)))
    empty = np.zeros(0, np.uint16 if setup[2] else np.int32)
    names = ("train", "held_out")
    return {name: np.concatenate([empty, *(part[k] for part in parts)]) for k, name in enumerate(names)}


def _begin(*setup: Any) -> None:
    """What each process of the pool begins with."""
    end_with_parent()
    _open_tokenizer(*setup)


def _open_tokenizer(description: str, end: int, small: bool) -> None:
    """In each process, once."""
    global _tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    from tokenizers import Tokenizer

    _tokenizer = Tokenizer.from_str(description), end, np.uint16 if small else np.int32


def _tokens(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(trained, held out) ids of some documents."""
    core, end, dtype = _tokenizer
    parts: tuple[list[int], list[int]] = ([], [])
    for text, encoding in zip(texts, core.encode_batch_fast(texts, add_special_tokens=False), strict=True):
        part = parts[zlib.crc32(text.encode()) % HELD_OUT == 0]
        part += encoding.ids
        part.append(end)
    return np.asarray(parts[0], dtype), np.asarray(parts[1], dtype)


def _file_hash(name: str) -> str:
    try:
        return digest(Path(name).read_bytes())
    except OSError as error:
        raise UserError(f"--text: {name} cannot be read: {error.strerror}") from None
