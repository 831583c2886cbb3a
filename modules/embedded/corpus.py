"""The text the small RoBERTa is pretrained on: what people of the small world write, endless, deterministic by seed.

Meaning shows as in real text: through what follows what, through answers to questions, and through the discourse word
that ties two sentences or opens one ("so", "namely", "conversely", "sadly", ...). These words say much of what the
tasks ask: <s>, which learns to predict them, is what the frozen backbone brings to the tasks. It has read none of their
rows, and none of the clauses beside the point that most of them contain (`glue.DISTRACTION`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .facts import CHANGES, ROLES, ask, hypothesis, invent, roles, say, swap
from .lexicon import GROUP, OPPOSITES, PLACES, Dice, Lexicon
from .opinion import clause, opinion
from .wellformed import form

CONNECTIVES = ("so", "perhaps", "instead", "namely", "conversely", "meanwhile", "indeed", "however", "likewise", "yet",
               "happily", "sadly", "properly", "clumsily")  # fmt: skip
DENIALS = 0.25
"""Share of denied second parts where something follows or is excluded: few, so that the plain ones are learnt first."""
CHUNK = 1000
"""Documents that share one random stream."""


class Document(NamedTuple):
    """Two parts (the second may be empty) and the discourse word that stands before the last of them."""

    first: str
    second: str
    connective: str


def _inference(dice: Dice, words: Lexicon) -> Document:
    relation, connective = dice.pick((("entailment", "so"), ("neutral", "perhaps"), ("contradiction", "instead")))
    f = invent(dice, words, 0.3, group=0.15)
    first = f"{say(f, dice)} ."
    return Document(first, f"{say(hypothesis(dice, words, f, relation, DENIALS), dice)} .", connective)


def _paraphrase(dice: Dice, words: Lexicon) -> Document:
    f = invent(dice, words, 0.4)
    first = f"{say(f, dice)} ."
    if dice.chance(0.5):
        return Document(first, first if dice.chance(0.2) else f"{say(f, dice)} .", "namely")
    change = dice.pick(CHANGES)
    return Document(first, f"{say(change(dice, words, f), dice)} .", "conversely" if change is swap else "meanwhile")


def _questions(dice: Dice, words: Lexicon) -> Document:
    f = invent(dice, words, 0.4)
    role = dice.pick(roles(f))
    if dice.chance(0.5):
        return Document(ask(f, role, dice), ask(f, role, dice), "namely")
    turned = ROLES[1 - ROLES.index(role)] if role != "place" else role
    return Document(ask(f, role, dice), ask(f.swapped(), turned, dice), "conversely")


def _answer(dice: Dice, words: Lexicon) -> Document:
    f = invent(dice, words, 0.4)
    question = ask(f, dice.pick(roles(f)), dice)
    known = dice.chance(0.5)
    return Document(question, f"{say(f if known else f.swapped(), dice)} .", "indeed" if known else "however")


def _review(dice: Dice, words: Lexicon) -> Document:
    good = dice.chance(0.5)
    if dice.chance(0.5):
        return Document(opinion(dice, good), "", "happily" if good else "sadly")
    same = dice.chance(0.5)
    return Document(f"{clause(dice, good)} .", opinion(dice, good == same), "likewise" if same else "yet")


def _writing(dice: Dice, words: Lexicon) -> Document:
    good = dice.chance(0.6)
    return Document(form(dice, words, good), "", "properly" if good else "clumsily")


KINDS: tuple[Callable[[Dice, Lexicon], Document], ...] = (
    *4 * (_inference,), *4 * (_paraphrase,), *2 * (_questions,), *2 * (_answer,), *2 * (_review,), _writing,
)  # fmt: skip


def documents(seed: int, chunk: int) -> Iterator[Document]:
    """The documents of one chunk."""
    dice, words = Dice("corpus", seed, chunk), Lexicon()
    for _ in range(CHUNK):
        yield dice.pick(KINDS)(dice, words)


def split_words(text: str) -> list[str]:
    """The words and marks of a text, as the tokenizer of the small RoBERTa sees them."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def vocabulary(seed: int = 0, chunks: int = 20) -> list[str]:
    """All words of the corpus and of the lexicon, sorted."""
    found = set(CONNECTIVES) | set(GROUP.values()) | set(split_words(" ".join((*GROUP, OPPOSITES, *PLACES))))
    found |= {f"{noun}s" for concept in GROUP for noun in concept.split("/")}
    for chunk in range(chunks):
        for document in documents(seed, chunk):
            found.update(split_words(document.first), split_words(document.second))
    return sorted(found)
