"""Well-formed and ill-formed sentences (CoLA's question).

An ill-formed sentence uses the very words of a well-formed one, so that only structure tells them apart.
"""

from __future__ import annotations

from .facts import invent, say
from .lexicon import Dice, Lexicon

NEAR = ("near", "behind", "beside", "opposite")


def _nouns(dice: Dice, words: Lexicon, k: int) -> list[str]:
    return [dice.word(concept) for concept in dice.sample(words.people, k)]


def agreement(dice: Dice, words: Lexicon, good: bool) -> str:
    """The verb agrees with its subject, not with the noun beside it."""
    one, many, third = _nouns(dice, words, 3)
    fact = invent(dice, words)
    nouns, form = [f"the {one}", f"the {many}s"], ["was", "were"]
    if dice.chance(0.5):
        nouns, form = nouns[::-1], form[::-1]
    verb = form[0 if good else 1]
    return dice.pick((
        f"{nouns[0]} {dice.pick(NEAR)} {nouns[1]} {verb} {dice.word(fact.verb)} by the {third}",
        f"{nouns[0]} {verb} {dice.word(fact.verb)} by {nouns[1]}",
        f"{nouns[0]} whom {nouns[1]} {dice.word(fact.verb)} {verb} in the {dice.word('garden/yard')}",
    ))  # fmt: skip


def case(dice: Dice, words: Lexicon, good: bool) -> str:
    """who did it, whom it was done to."""
    a, p, third = _nouns(dice, words, 3)
    did, also = (dice.word(invent(dice, words).verb) for _ in range(2))
    who, whom = ("who", "whom") if good else ("whom", "who")
    return dice.pick((
        f"it was the {a} {who} {did} the {p}",
        f"it was the {p} {whom} the {a} {did}",
        f"the {a} {who} {did} the {p} was {also} by the {third}",
        f"the {p} {whom} the {a} {did} was {also} by the {third}",
    ))  # fmt: skip


def determiner(dice: Dice, words: Lexicon, good: bool) -> str:
    """this doctor, these doctors."""
    x, y = _nouns(dice, words, 2)
    one, many = dice.pick((("this", "these"), ("that", "those"), ("every", "several")))
    if not good:
        one, many = many, one
    did = dice.word(invent(dice, words).verb)
    first, second = f"{one} {x}", f"{many} {y}s"
    return f"{first} {did} {second}" if dice.chance(0.5) else f"{second} {did} {first}"


def order(dice: Dice, words: Lexicon, good: bool) -> str:
    """Two neighbours changed places."""
    tokens = say(invent(dice, words, 0.5), dice).split()
    if not good:
        pairs = [i for i in range(len(tokens) - 1) if not {"never"} & set(tokens[i : i + 2])]
        i = dice.pick(pairs)
        tokens[i], tokens[i + 1] = tokens[i + 1], tokens[i]
    return " ".join(tokens)


PHENOMENA = (agreement, agreement, case, case, determiner, order)


def form(dice: Dice, words: Lexicon, good: bool) -> str:
    """A well-formed (good) or ill-formed sentence, words separated by blanks, with its full stop."""
    return dice.pick(PHENOMENA)(dice, words, good) + " ."
