"""The eight tasks: what is asked about sentences of the small world. Labels are in nyu-mll/glue's integer order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .facts import CHANGES, RELATIONS, Fact, ask, hypothesis, invent, likeness, other, roles, say, swap
from .lexicon import Dice, Lexicon, sentence
from .opinion import opinion
from .wellformed import form

Row = tuple[tuple[str, ...], float]


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


ASIDE = {"cola": 0.7, "mrpc": 0.5, "qqp": 0.5, "qnli": 0.5, "mnli": 0.3, "rte": 0.5}
"""How often a sentence tells of something else besides. The pretraining text knows this hardly: here the backbone has
to be adapted."""
DENIALS = 0.1
"""Share of denials in SST-2 and of denied hypotheses in MNLI and RTE; in the pretraining text they are half."""


def aside(dice: Dice, words: Lexicon, task: str) -> Callable[[str], str]:
    """A function that adds another fact to texts, or nothing; the same fact, newly worded, to each."""
    if not dice.chance(ASIDE[task]):
        return lambda text: text
    fact, leading = invent(dice, words, 0.0), dice.chance(0.6)

    def add(text: str) -> str:
        return f"while {say(fact, dice)} , {text}" if leading else f"{text} while {say(fact, dice)}"

    return add


def cola(dice: Dice, words: Lexicon, label: int) -> Row:
    text = form(dice, words, bool(label))[:-2]
    return (sentence(aside(dice, words, "cola")(text) + " ."),), label


def sst2(dice: Dice, words: Lexicon, label: int) -> Row:
    return (sentence(opinion(dice, bool(label), words.share, DENIALS)),), label


def mrpc(dice: Dice, words: Lexicon, label: int) -> Row:
    f = invent(dice, words, 0.4)
    g = f if label else dice.pick((swap, swap, swap, other))(dice, words, f)
    add = aside(dice, words, "mrpc")
    first = add(say(f, dice))
    second = reword(dice, first, lambda: add(say(g, dice)), bool(label), PUSH["mrpc"])
    return (sentence(first + " ."), sentence(second + " .")), label


def qqp(dice: Dice, words: Lexicon, label: int) -> Row:
    """Not the same question: asked about the other person, or with the two the other way round."""
    f = g = invent(dice, words, 0.4)
    role = turned = dice.pick(roles(f))
    if not label:
        g, turned = f.swapped(), {"agent": "patient", "patient": "agent", "place": "place"}[role]
    add = aside(dice, words, "qqp")
    first, second = (add(ask(x, part, dice)[:-2]) + " ?" for x, part in ((f, role), (g, turned)))
    return (sentence(first), sentence(second)), label


def qnli(dice: Dice, words: Lexicon, label: int) -> Row:
    """label 0: the sentence contains the answer."""
    f = invent(dice, words, 0.4)
    question = ask(f, dice.pick(roles(f)), dice)
    told = aside(dice, words, "qnli")(say(f.swapped() if label else f, dice))
    return (sentence(question), sentence(told + " .")), label


def infer(dice: Dice, words: Lexicon, task: str, relation: str) -> tuple[str, str]:
    f = invent(dice, words, 0.3, group=0.15)
    h = hypothesis(dice, words, f, relation, DENIALS)
    while relation == "neutral" and (h.agent, h.patient) == (f.agent, f.patient):  # made vague, then as it was again
        h = hypothesis(dice, words, f, relation, DENIALS)
    told = say(f, dice)
    premise = aside(dice, words, task)(told)
    second = reword(dice, told, lambda: say(h, dice), relation == "entailment", PUSH["infer"])
    return sentence(premise + " ."), sentence(second + " .")


def mnli(dice: Dice, words: Lexicon, label: int) -> Row:
    return infer(dice, words, "mnli", RELATIONS[label]), label


def rte(dice: Dice, words: Lexicon, label: int) -> Row:
    return infer(dice, words, "rte", dice.pick(RELATIONS[1:]) if label else RELATIONS[0]), label


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
