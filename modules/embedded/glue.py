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


PAIR = {"mrpc": 0.5, "qqp": 0.5, "qnli": 0.5, "mnli": 0.3, "rte": 0.5}
"""How often a sentence tells of two facts or, in QQP, a question begins with another fact. The pretraining text knows
this hardly or not at all: here the backbone has to be adapted."""


def both(dice: Dice, *facts: Fact) -> str:
    """Some facts in one sentence, in any order."""
    told = [say(fact, dice) for fact in dice.sample(facts, len(facts))]
    return join(*told, dice) if len(told) == 2 else f"{told[0]} ."


def mrpc(dice: Dice, words: Lexicon, label: int) -> Row:
    f = invent(dice, words, 0.4)
    beside = (invent(dice, words, 0.1),) if dice.chance(PAIR["mrpc"]) else ()
    g = f if label else dice.pick(CHANGES)(dice, words, f)
    first = both(dice, f, *beside)
    second = reword(dice, first, lambda: both(dice, g, *beside), bool(label), PUSH["mrpc"])
    return (sentence(first), sentence(second)), label


def qqp(dice: Dice, words: Lexicon, label: int) -> Row:
    """Not the same question: asked about the other person, or with the two the other way round."""
    f = invent(dice, words, 0.4)
    role = turned = dice.pick(roles(f))
    g = f
    if not label:
        g, turned = f.swapped(), {"agent": "patient", "patient": "agent", "place": "place"}[role]
    questions = [ask(f, role, dice), ask(g, turned, dice)]
    if dice.chance(PAIR["qqp"]):
        h = invent(dice, words, 0.0)
        questions = [f"when {say(h, dice)} , {question}" for question in questions]
    return (sentence(questions[0]), sentence(questions[1])), label


def qnli(dice: Dice, words: Lexicon, label: int) -> Row:
    """label 0: the sentence contains the answer."""
    f = invent(dice, words, 0.4)
    beside = (invent(dice, words, 0.2),) if dice.chance(PAIR["qnli"]) else ()
    question = ask(f, dice.pick(roles(f)), dice)
    return (sentence(question), sentence(both(dice, f.swapped() if label else f, *beside))), label


def infer(dice: Dice, words: Lexicon, relation: str, pair: float) -> tuple[str, str]:
    """A premise of one or (with probability `pair`) two facts and a hypothesis about one of them."""
    f = invent(dice, words, 0.3, group=0.15)
    h = hypothesis(dice, words, f, relation)
    told = say(f, dice)
    beside = [say(invent(dice, words, 0.0), dice)] if dice.chance(pair) else []
    premise = join(*dice.sample([told, *beside], 2), dice) if beside else f"{told} ."
    second = reword(dice, told, lambda: say(h, dice), relation == "entailment", PUSH["infer"])
    return sentence(premise), sentence(second + " .")


def mnli(dice: Dice, words: Lexicon, label: int) -> Row:
    return infer(dice, words, RELATIONS[label], PAIR["mnli"]), label


def rte(dice: Dice, words: Lexicon, label: int) -> Row:
    relation = dice.pick(RELATIONS[1:]) if label else RELATIONS[0]
    return infer(dice, words, relation, PAIR["rte"]), label


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
