"""The words of the small world: concepts, their synonyms, the groups they belong to, and opposites.

A *concept* is written as its synonyms joined by "/", for example ``"doctor/physician"``; saying it picks one of
them. Everything is plain text, so that a word is added in one place.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def listed(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


PEOPLE = {  # domain -> group -> concepts
    "town": {
        "medic": "doctor/physician nurse/matron surgeon/operator dentist/orthodontist",
        "artist": "painter/portraitist writer/author singer/vocalist actor/performer",
        "craftsman": "tailor/dressmaker carpenter/joiner smith/blacksmith baker/confectioner",
        "official": "judge/magistrate constable/patroller mayor/burgomaster clerk/registrar",
        "scholar": "teacher/instructor historian/chronicler astronomer/stargazer linguist/philologist",
    },
    "country": {
        "seaman": "sailor/mariner captain/skipper pirate/buccaneer diver/snorkeler",
        "peasant": "farmer/grower shepherd/herder miller/grinder hunter/stalker",
        "noble": "king/monarch duke/lord knight/cavalier princess/infanta",
    },
}
OPPOSITES = """helped/aided hindered/obstructed
praised/commended blamed/criticized
loved/adored hated/loathed
hired/employed dismissed/sacked
trusted/believed doubted/distrusted
welcomed/greeted ignored/snubbed
protected/guarded attacked/assaulted
cheered/encouraged mocked/ridiculed"""
"""What people do to each other, a pair of opposites per line; past tense and participle are the same."""
PLACES = [
    "garden/yard",
    "market/bazaar",
    "clinic/hospital",
    "shop/store",
    "inn/tavern",
    "harbor/port",
    "forest/wood",
    "street/road",
]

GROUP = {concept: group for groups in PEOPLE.values() for group, some in groups.items() for concept in some.split()}
OPPOSITE = {x: y for line in OPPOSITES.splitlines() for x, y in (line.split(), line.split()[::-1])}


class Dice:
    """Random choices that are the same on every Python: only ``Random(int).random()`` is guaranteed stable."""

    def __init__(self, *key: object) -> None:
        digest = hashlib.sha256(repr(key).encode()).digest()
        self.random = random.Random(int.from_bytes(digest[:8], "big")).random

    def below(self, n: int) -> int:
        """A whole number in [0, n)."""
        return int(self.random() * n)

    def chance(self, p: float) -> bool:
        """True with probability p."""
        return self.random() < p

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, each as likely as the others."""
        return items[int(self.random() * len(items))]

    def sample(self, items: Iterable[T], k: int) -> list[T]:
        """k different items in random order."""
        pool = list(items)
        return [pool.pop(self.below(len(pool))) for _ in range(k)]

    def word(self, concept: str) -> str:
        """One of the synonyms of a concept."""
        return self.pick(concept.split("/"))


class Lexicon:
    """The people of some domains: the leading `share` of the concepts of each of their groups."""

    def __init__(self, domains: Iterable[str] = tuple(PEOPLE), share: float = 1.0) -> None:
        self.share = share
        self.groups = {
            group: leading(some.split(), share) for domain in domains for group, some in PEOPLE[domain].items()
        }
        self.people = [concept for some in self.groups.values() for concept in some]


def leading(items: list[T], share: float) -> list[T]:
    """The first items: that share of them, rounded."""
    return items[: round(len(items) * share)]


def sentence(text: str) -> str:
    """With a capital letter and single blanks; marks stand after the word."""
    text = " ".join(text.split())
    for mark in ",.?":
        text = text.replace(f" {mark}", mark)
    return text[0].upper() + text[1:]
