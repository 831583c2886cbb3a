"""The eight tasks: what is asked about sentences of the small world. Labels are in nyu-mll/glue's integer order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .facts import CHANGES, RELATIONS, Fact, ask, hypothesis, invent, likeness, other, roles, say, swap
from .lexicon import Dice, Lexicon, sentence
from .opinion import hearsay, opinion
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
DISTRACTION = {
    "mnli": (0.4, 0.4), "sst2": (0.2, 0.6), "mrpc": (0.4, 0.4), "cola": (0.4, 0.4), "qnli": (0.4, 0.4),
    "qqp": (0.3, 0.3), "rte": (1.0, 0.0), "stsb": (0.3, 0.2),
}  # fmt: skip
"""How often a sentence comes with a remark about somebody else ("whatever the king expected"), and how often with an
aside: another fact or, in SST-2, what somebody else thinks. The pretraining text has neither: they lead the frozen
backbone astray, and adaptation has to learn to read past them. Remarks are learnt sooner than asides."""
EXPECTED = ("expected", "liked", "disliked", "enjoyed", "admired", "regretted")
DENIALS = 0.1
"""Share of denials in SST-2 and of denied hypotheses in MNLI and RTE; the pretraining text has more."""


def distract(dice: Dice, words: Lexicon, task: str, text: str) -> str:
    """The text (without its final mark), before or after it perhaps a clause that is beside the point."""
    remarks, asides = DISTRACTION[task]
    kind = dice.random()
    if kind >= remarks + asides:
        return text
    who = f"the {dice.word(dice.pick(words.people))}"
    if kind < remarks:
        said = f"whatever {who} {dice.pick(EXPECTED)}"
    elif task == "sst2":
        said = hearsay(dice, who, words.share)
        return f"{said} , but {text}" if dice.chance(0.5) else f"{text} , but {said}"
    else:
        said = f"while {say(invent(dice, words), dice)}"
    return f"{said} , {text}" if dice.chance(0.5) else f"{text} , {said}"


def cola(dice: Dice, words: Lexicon, label: int) -> Row:
    """A sentence that is well formed (label 1) or not."""
    text = form(dice, words, bool(label))[:-2]
    return (sentence(distract(dice, words, "cola", text) + " ."),), label


def sst2(dice: Dice, words: Lexicon, label: int) -> Row:
    """A good opinion (label 1) or a bad one."""
    text = opinion(dice, bool(label), words.share, DENIALS)[:-2]
    return (sentence(distract(dice, words, "sst2", text) + " ."),), label


def mrpc(dice: Dice, words: Lexicon, label: int) -> Row:
    """Two sentences that tell the same fact in other words (label 1), or two facts."""
    f = invent(dice, words, 0.4)
    g = f if label else dice.pick((swap, swap, swap, other))(dice, words, f)
    told = say(f, dice)
    second = reword(dice, told, lambda: say(g, dice), bool(label), PUSH["mrpc"])
    first = distract(dice, words, "mrpc", told)
    return (sentence(first + " ."), sentence(second + " .")), label


def qqp(dice: Dice, words: Lexicon, label: int) -> Row:
    """Not the same question: asked about the other person, or with the two the other way round."""
    f = g = invent(dice, words, 0.4)
    role = turned = dice.pick(roles(f))
    if not label:
        g, turned = f.swapped(), {"agent": "patient", "patient": "agent", "place": "place"}[role]
    first, second = (
        distract(dice, words, "qqp", ask(x, part, dice)[:-2]) + " ?" for x, part in ((f, role), (g, turned))
    )
    return (sentence(first), sentence(second)), label


def qnli(dice: Dice, words: Lexicon, label: int) -> Row:
    """label 0: the sentence contains the answer."""
    f = invent(dice, words, 0.4)
    question = ask(f, dice.pick(roles(f)), dice)
    told = distract(dice, words, "qnli", say(f.swapped() if label else f, dice))
    return (sentence(question), sentence(told + " .")), label


def infer(dice: Dice, words: Lexicon, task: str, relation: str) -> tuple[str, str]:
    """A premise, and a hypothesis that stands in a relation to it: one of `RELATIONS`."""
    f = invent(dice, words, 0.3, group=0.15)
    h = hypothesis(dice, words, f, relation, DENIALS)
    while relation == "neutral" and (h.agent, h.patient) == (f.agent, f.patient):  # made vague, then as it was again
        h = hypothesis(dice, words, f, relation, DENIALS)
    told = say(f, dice)
    premise = distract(dice, words, task, told)
    second = reword(dice, told, lambda: say(h, dice), relation == "entailment", PUSH["infer"])
    return sentence(premise + " ."), sentence(second + " .")


def mnli(dice: Dice, words: Lexicon, label: int) -> Row:
    """A premise and a hypothesis; the label is the number of their relation in `RELATIONS`."""
    return infer(dice, words, "mnli", RELATIONS[label]), label


def rte(dice: Dice, words: Lexicon, label: int) -> Row:
    """A premise and a hypothesis that follows from it (label 0) or does not."""
    return infer(dice, words, "rte", dice.pick(RELATIONS[1:]) if label else RELATIONS[0]), label


def stsb(dice: Dice, words: Lexicon, label: int) -> Row:
    """Score 0 to 5: the share of meaning in common."""
    f = g = invent(dice, words, 0.4)
    for _ in range(dice.below(4)):
        change = dice.pick((*CHANGES, lambda dice, words, fact: fact.reversed(), another))
        g = change(dice, words, g)
    first, score = say(f, dice), likeness(f, g)
    second = reword(dice, first, lambda: say(g, dice), score > 0.6, PUSH["stsb"])
    first = distract(dice, words, "stsb", first)
    return (sentence(first + " ."), sentence(second + " .")), round(5 * score, 1)


def another(dice: Dice, words: Lexicon, fact: Fact) -> Fact:
    """Another deed of the same two."""
    return replace(fact, verb=invent(dice, words).verb)


TASKS: dict[str, Callable[[Dice, Lexicon, int], Row]] = {
    "mnli": mnli, "sst2": sst2, "mrpc": mrpc, "cola": cola, "qnli": qnli, "qqp": qqp, "rte": rte, "stsb": stsb,
}  # fmt: skip
