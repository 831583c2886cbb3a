"""The text the small RoBERTa is pretrained on: what people of the small world write, endless, deterministic by seed.

No labelled example of a task occurs. Meaning shows as in real text: through what follows what, through answers to
questions, verdicts after opinions, and discourse words ("so", "namely", "perhaps", "otherwise", ...) between two
sentences. Writers are careless: a tenth of the discourse words is arbitrary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .glue import RELATIONS, infer, join, two_facts
from .grammar import form_sentence, slip
from .inference import against, more, other
from .lexicon import Dice, Lexicon, forms
from .opinion import VERDICTS, opinion
from .world import ask, invent, say

CARELESS = 0.1
DISCOURSE = ("so", "perhaps", "otherwise", "namely", "rather", "likewise", "indeed", "however", "happily", "sadly",
             "properly", "clumsily")  # fmt: skip
CHUNK = 1000
"""Documents that share one random stream."""


class Document(NamedTuple):
    """Two parts (the second may be empty) and the discourse word that stands before the last of them."""

    first: str
    second: str
    marker: str


def _inference(dice: Dice, words: Lexicon) -> Document:
    relation = dice.pick(RELATIONS)
    marker = {"entailment": "so", "neutral": "perhaps", "contradiction": "otherwise"}[relation]
    return Document(*infer(dice, words, relation, 0.3), marker)


def _paraphrase(dice: Dice, words: Lexicon) -> Document:
    f = invent(dice, words, detail=0.3)
    same = dice.chance(0.5)
    g = f if same else dice.pick((other, other, against, more))(dice, words, f)
    return Document(say(f, dice) + " .", say(g, dice) + " .", "namely" if same else "likewise")


def _questions(dice: Dice, words: Lexicon) -> Document:
    f = invent(dice, words, "meet handle give", 0.3)
    role = dice.pick(("a", "b"))
    if dice.chance(0.5):
        return Document(ask(f, role, dice), ask(f, role, dice), "namely")
    g, asked = dice.pick((f, other(dice, words, f))), "b" if role == "a" else "a"
    return Document(ask(f, role, dice), ask(g, asked, dice), "rather")


def _answer(dice: Dice, words: Lexicon) -> Document:
    """A question, what was seen, and the answer."""
    f, g = two_facts(dice, words)
    roles = ["a", "b"] + [r for r in ("place", "time") if getattr(f, r)]
    role = dice.pick(roles)
    question, known = ask(f, role, dice), dice.chance(0.6)
    answer = getattr(f, role)
    answer = answer if isinstance(answer, str) else answer.say(dice)
    if not known:
        f = other(dice, words, f)
        answer = "nobody knows"
    seen = say(f, dice) + " ."
    if dice.chance(0.6):
        seen = join(*((say(f, dice), say(g, dice)) if dice.chance(0.5) else (say(g, dice), say(f, dice))), dice)
    if dice.chance(0.5):
        seen += f" answer : {answer} ."
    return Document(question, seen, "indeed" if known else "however")


def _review(dice: Dice, words: Lexicon) -> Document:
    good = dice.chance(0.5)
    marker = "happily" if good else "sadly"
    verdict = dice.pick(VERDICTS[good])
    if dice.chance(0.5):
        return Document(opinion(dice, good), verdict if dice.chance(0.8) else "", marker)
    return Document(opinion(dice, good) + " " + opinion(dice, good), "", marker)


def _writing(dice: Dice, words: Lexicon) -> Document:
    """A sentence as it should be, or with a slip."""
    text = form_sentence(dice, words, True) if dice.chance(0.6) else say(invent(dice, words), dice) + " ."
    if dice.chance(0.5):
        return Document(slip(dice, text), "", "clumsily")
    return Document(text, "", "properly")


def _story(dice: Dice, words: Lexicon) -> Document:
    """Several facts in a row; the last may say the first again."""
    facts = [invent(dice, words, detail=0.15) for _ in range(2)]
    again = dice.chance(0.5)
    first = " ".join(f"{say(f, dice)} ." for f in facts)
    last = facts[0] if again else other(dice, words, facts[0])
    return Document(first, say(last, dice) + " .", "so" if again else "likewise")


KINDS: tuple[Callable[[Dice, Lexicon], Document], ...] = (
    _inference, _inference, _inference, _paraphrase, _paraphrase, _questions, _answer, _answer, _review, _writing,
    _writing, _story,
)  # fmt: skip


def documents(seed: int, chunk: int) -> Iterator[Document]:
    """The documents of one chunk."""
    dice, words = Dice("corpus", seed, chunk), Lexicon()
    for _ in range(CHUNK):
        document = dice.pick(KINDS)(dice, words)
        yield document._replace(marker=dice.pick(DISCOURSE)) if dice.chance(CARELESS) else document


def split_words(text: str) -> list[str]:
    """The words and marks of a text, as the tokenizer of the small RoBERTa sees them."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def vocabulary(seed: int = 0, chunks: int = 20) -> list[str]:
    """All words of the corpus and all forms of the lexicon, sorted."""
    found = set(DISCOURSE) | forms()
    for chunk in range(chunks):
        for document in documents(seed, chunk):
            found.update(split_words(document.first), split_words(document.second))
    return sorted(found)
