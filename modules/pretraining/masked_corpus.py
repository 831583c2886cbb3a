"""The embedded corpus as rows of tokens, written by several processes. They import no torch, and so start at once."""

from __future__ import annotations

import math
import multiprocessing
import time

import numpy as np

from modules.embedded.corpus import CHUNK, documents, split_words
from modules.embedded.lexicon import Dice
from modules.processes import end_with_parent

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
"""Special tokens; their place is their id."""
BOS, PAD, EOS, UNK, MASK = range(5)
LENGTH = 52
"""Most tokens per row."""


def encode(chunk_of: tuple[int, int, float, dict[str, int]]) -> bytes:
    """A chunk of documents as int16 rows: LENGTH tokens and the id that <s> must predict (-100: none).

    Args:
        chunk_of: (seed, number of the chunk, share of hidden discourse words, ids by word).
    """
    seed, chunk, hide, ids = chunk_of
    rows = np.full((CHUNK, LENGTH + 1), PAD, dtype=np.int16)
    rows[:, LENGTH] = -100
    dice = Dice("hide", seed, chunk)
    for row, (first, second, connective) in zip(rows, documents(seed, chunk), strict=True):
        hidden = dice.chance(hide)
        parts = [[ids.get(word, UNK) for word in split_words(text)] for text in (first, second)]
        if hidden:
            row[LENGTH] = ids[connective]
        else:
            parts[1 if second else 0].insert(0, ids[connective])
        tokens = [BOS, *parts[0], EOS] + ([EOS, *parts[1], EOS] if second else [])
        row[: min(len(tokens), LENGTH)] = tokens[:LENGTH]
    return rows.tobytes()


def corpus(seed: int, count: int, hide: float, ids: dict[str, int], workers: int) -> np.ndarray:
    """``count`` documents as rows (count, LENGTH + 1) int16, as `encode` has them.

    Args:
        hide: share of documents whose discourse word <s> must predict.
        ids: by word.
        workers: processes that write them.
    """
    chunks = [(seed, chunk, hide, ids) for chunk in range(math.ceil(count / CHUNK))]
    start, parts = time.time(), []
    with multiprocessing.get_context("spawn").Pool(min(workers, len(chunks)), end_with_parent) as pool:
        for part in pool.imap(encode, chunks, chunksize=4):
            parts.append(np.frombuffer(part, dtype=np.int16).reshape(CHUNK, LENGTH + 1))
            if len(parts) % 50 == 0 or len(parts) == len(chunks):
                print(f"\rcorpus {len(parts) * CHUNK:,} documents, {time.time() - start:.0f} s", end="", flush=True)
    print()
    return np.concatenate(parts)
