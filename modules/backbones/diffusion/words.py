"""Prompts as bags of words: what the small image model has in place of a text encoder.

Each word is a one-hot vector, so the first linear map of the transformer's own caption projection is the table of
words. Words that are not known become one of a few spare ones, by their letters: that is what a new style or character
is called by.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from modules.documents import read_json
from variants.atomic import write_atomic
from variants.errors import UserError
from variants.schema import checked

FILE = "words.json"
IGNORED = frozenset(("a", "an", "and", "at", "in", "of", "on", "picture", "the", "with"))
SPARE = 8
"""Entries for words that are not known; the entry before them stands in every prompt, and alone in an empty one."""


class Words:
    """The vocabulary of a model.

    Args:
        known: its words as `split` gives them, in the order of their numbers.
        longest: words of a prompt that are read; later ones are left out.
    """

    def __init__(self, known: Iterable[str], longest: int = 12) -> None:
        self.known, self.longest = [*dict.fromkeys(known)], longest
        self._numbers = {word: number for number, word in enumerate(self.known)}

    def __len__(self) -> int:
        return len(self.known) + 1 + SPARE

    def numbers(self, prompt: str) -> list[int]:
        """The entries of a prompt's words, that of every prompt first."""
        words = self.split(prompt)
        start = len(self.known) + 1
        spare = [start + zlib.crc32(word.encode()) % SPARE for word in words]
        found = [self._numbers.get(word, other) for word, other in zip(words, spare, strict=True)]
        return [len(self.known), *found][: self.longest]

    @staticmethod
    def split(prompt: str) -> list[str]:
        """The words that are read, in small letters and the singular."""
        return [stem(word) for word in re.findall(r"[^\W_]+", prompt.lower()) if word not in IGNORED]

    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(word vectors (B, L, V), which of them are there (B, L) int64), on the CPU."""
        every = [self.numbers(prompt) for prompt in prompts]
        vectors, mask = torch.zeros(len(every), self.longest, len(self)), torch.zeros(len(every), self.longest).long()
        for row, numbers in enumerate(every):
            vectors[row, range(len(numbers)), numbers] = 1.0
            mask[row, : len(numbers)] = 1
        return vectors, mask

    def save(self, folder: Path) -> None:
        """Write `FILE`."""
        write_atomic(folder / FILE, json.dumps({"longest": self.longest, "known": self.known}) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Words:
        """As saved. Raises UserError where there is no such file, or it is damaged."""
        content = read_json(folder / FILE)
        if not isinstance(content, dict) or set(content) != {"longest", "known"}:
            raise UserError(f"{folder / FILE}: expected the keys longest and known")
        known = checked(list[str], content["known"], f"{folder / FILE}: known")
        return cls(known, checked(int, content["longest"], f"{folder / FILE}: longest"))


def stem(word: str) -> str:
    """A word in small letters without the ending of its plural, as far as letters tell."""
    return re.sub(r"(?<=ss)es$|(?<=[^s])s$", "", word.lower())
