"""The eight tasks: what is asked about sentences of the small world. Labels are in nyu-mll/glue's integer order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .facts import CHANGES, RELATIONS, Fact, ask, hypothesis, invent, likeness, roles, say
from .lexicon import Dice, Lexicon, sentence
from .opinion import opinion
from .wellformed import form

Row = tuple[tuple[str, ...], float]
JOINS = ("and", "and", ", and", "while")


def join(first: str, second: str, dice: Dice) -> str:
    return f"{first} {dice.pick(JOINS)} {second} ."


def cola(dice: Dice, words: Lexicon, label: int) -> Row:
    return (sentence(form(dice, words, bool(label))),), label


def sst2(dice: Dice, words: Lexicon, label: int) -> Row:
    return (sentence(opinion(dice, bool(label), words.share)),), label


def reword(dice: Dice, first: str, second: Callable[[], str], far: bool, push: float) -> str:
    """A wording of a second text; with probability `push` the one of three that shares few words with the first (far)
    or many."""

    def shared(text: str) -> float:
        x, y = set(first.split()), set(text.split())
        return len(x & y) / len(x | y)

    if not dice.chance(push):
        return second()
    return (min if far else max)([second() for _ in range(3)], key=shared)


PUSH = {"mrpc": 0.2, "infer": 0.2, "stsb": 0.4}
"""How often the wording is chosen against the number of shared words; set so that counting them tells nothing."""


def mrpc(dice: Dice, words: Lexicon, label: int) -> Row:
    f = invent(dice, words, 0.4)
    g = f if label else dice.pick(CHANGES)(dice, words, f)
    first = say(f, dice)
    second = reword(dice, first, lambda: say(g, dice), bool(label), PUSH["mrpc"])
    return (sentence(first + " ."), sentence(second + " .")), label


def qqp(dice: Dice, words: Lexicon, label: int) -> Row:
    """Not the same question: asked about the other person, or with the two the other way round."""
    f = invent(dice, words, 0.4)
    role = dice.pick(roles(f))
    if label:
        return (sentence(ask(f, role, dice)), sentence(ask(f, role, dice))), label
    turned = {"agent": "patient", "patient": "agent", "place": "place"}[role]
    return (sentence(ask(f, role, dice)), sentence(ask(f.swapped(), turned, dice))), label


def qnli(dice: Dice, words: Lexicon, label: int) -> Row:
    """label 0: the sentence contains the answer."""
    f = invent(dice, words, 0.4)
    role = dice.pick(roles(f))
    told = f.swapped() if label else f
    text = say(told, dice) + " ."
    if dice.chance(0.3):
        pair = [say(told, dice), say(invent(dice, words, 0.2), dice)]
        text = join(*(pair if dice.chance(0.5) else pair[::-1]), dice)
    return (sentence(ask(f, role, dice)), sentence(text)), label


def infer(dice: Dice, words: Lexicon, relation: str, pair: float) -> tuple[str, str]:
    """A premise of one or (with probability `pair`) two facts and a hypothesis about one of them."""
    f = invent(dice, words, 0.3, group=0.15)
    h = hypothesis(dice, words, f, relation)
    premise = told = say(f, dice)
    if dice.chance(pair):
        both = [told, say(invent(dice, words, 0.0), dice)]
        premise = join(*(both if dice.chance(0.5) else both[::-1]), dice)[:-2]
    second = reword(dice, told, lambda: say(h, dice), relation == "entailment", PUSH["infer"])
    return sentence(premise + " ."), sentence(second + " .")


def mnli(dice: Dice, words: Lexicon, label: int) -> Row:
    return infer(dice, words, RELATIONS[label], 0.0), label


def rte(dice: Dice, words: Lexicon, label: int) -> Row:
    relation = dice.pick(RELATIONS[1:]) if label else RELATIONS[0]
    return infer(dice, words, relation, 0.5), label


def stsb(dice: Dice, words: Lexicon, label: int) -> Row:
    """Score 0 to 5: the share of meaning in common."""
    f = g = invent(dice, words, 0.4)
    for _ in range(dice.below(4)):
        change = dice.pick((*CHANGES, lambda dice, words, fact: fact.reversed(), another))
        g = change(dice, words, g)
    first, score = say(f, dice), likeness(f, g)
    second = reword(dice, first, lambda: say(g, dice), score > 0.6, PUSH["stsb"])
    return (sentence(first + " ."), sentence(second + " .")), round(5 * score, 1)


def another(dice: Dice, words: Lexicon, fact: Fact) -> Fact:
    """Another deed of the same two."""
    return replace(fact, verb=invent(dice, words).verb)


TASKS: dict[str, Callable[[Dice, Lexicon, int], Row]] = {
    "mnli": mnli, "sst2": sst2, "mrpc": mrpc, "cola": cola, "qnli": qnli, "qqp": qqp, "rte": rte, "stsb": stsb,
}  # fmt: skip
