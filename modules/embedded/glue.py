"""The eight tasks: what is asked about sentences of the small world. Labels are in nyu-mll/glue's integer order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .grammar import form_sentence
from .inference import against, hypothesis, likeness, more, other
from .lexicon import OPPOSITE, Dice, Lexicon, sentence
from .opinion import opinion
from .world import Fact, ask, invent, say

Row = tuple[tuple[str, ...], float]
JOINS = ("and", "and", ", and", "while", ". also ,")


def join(first: str, second: str, dice: Dice) -> str:
    return f"{first} {dice.pick(JOINS)} {second} ."


PUSH = {"mrpc": 0.2, "qqp": 0.15, "infer": 0.15, "stsb": 0.4}
"""How often the wording is chosen against the number of shared words; tuned so that counting them tells nothing."""


def reword(dice: Dice, first: str, second: Callable[[], str], far: bool, push: float) -> str:
    """A wording of a second text; with probability `push` the one of three that shares few words with the first (far)
    or many."""

    def shared(text: str) -> float:
        x, y = set(first.split()), set(text.split())
        return len(x & y) / len(x | y)

    if not dice.chance(push):
        return second()
    return (min if far else max)([second() for _ in range(3)], key=shared)


def cola(dice: Dice, words: Lexicon, label: int) -> Row:
    return (sentence(form_sentence(dice, words, bool(label))),), label


def sst2(dice: Dice, words: Lexicon, label: int) -> Row:
    return (sentence(opinion(dice, bool(label), words.share)),), label


def two_facts(dice: Dice, words: Lexicon) -> tuple[Fact, Fact]:
    """Two facts of one kind with different participants."""
    kind = dice.pick(("meet", "meet", "handle"))
    while True:
        f, g = (invent(dice, words, kind, 0.15) for _ in range(2))
        if len({f.a.noun, f.b.noun, g.a.noun, g.b.noun}) == 4 and f.head not in (g.head, OPPOSITE.get(g.head)):
            return f, g


def crossed(f: Fact, g: Fact, dice: Dice) -> tuple[Fact, Fact]:
    """The same words, other facts: one role of the two is exchanged."""
    if f.kind == "meet" and dice.chance(0.35):
        return replace(f, a=f.b, b=f.a), g
    role = dice.pick(("a", "b", "head") if f.kind == g.kind else ("a",))
    return replace(f, **{role: getattr(g, role)}), replace(g, **{role: getattr(f, role)})


def changed(dice: Dice, words: Lexicon, fact: Fact) -> Fact:
    """A fact of nearly the same words that does not say the same."""
    for _ in range(20):
        new = dice.pick((other, against))(dice, words, fact)
        if new.true:
            return new
    return fact.denied()


def mrpc(dice: Dice, words: Lexicon, label: int) -> Row:
    if dice.chance(0.5):
        pair = two_facts(dice, words)
        first = join(*(say(f, dice) for f in pair), dice)
        if not label:
            pair = crossed(*pair, dice)
        order = pair[::-1] if dice.chance(0.5) else pair
        return (sentence(first), sentence(join(*(say(f, dice) for f in order), dice))), label
    f = invent(dice, words, "meet handle give rel", 0.35)
    g = f if label else changed(dice, words, f)
    first = say(f, dice)
    second = reword(dice, first, lambda: say(g, dice), bool(label), PUSH["mrpc"])
    return (sentence(first + " ."), sentence(second + " .")), label


def qqp(dice: Dice, words: Lexicon, label: int) -> Row:
    f = invent(dice, words, "meet meet handle give", 0.3)
    roles = ["a", "b"] + (["c"] if f.c else []) + [r for r in ("place", "time") if getattr(f, r)]
    role = dice.pick(roles)
    g, asked = f, role
    if not label and role in "ab" and f.kind != "handle" and dice.chance(0.6):
        g, asked = replace(f, a=f.b, b=f.a), "b" if role == "a" else "a"  # who praised X? whom did X praise?
    elif not label:
        while replace(g, **{role: getattr(f, role)}) == f or not g.true:  # what is asked for may differ
            g = changed(dice, words, f)
    first = ask(f, role, dice)
    second = reword(dice, first, lambda: ask(g, asked, dice), bool(label), PUSH["qqp"])
    return (sentence(first), sentence(second)), label


def qnli(dice: Dice, words: Lexicon, label: int) -> Row:
    """label 0: the sentence contains the answer. The distractor fact carries the words that a wrong sentence lacks."""
    f, g = two_facts(dice, words)
    role = dice.pick(("a", "b", "place", "time"))
    details = {"place": dice.sample(words.nouns["place"], 2), "time": dice.sample(words.times, 2)}
    if role in details:
        f, g = (replace(x, place=None, time=None) for x in (f, g))
        mine, its = role, "time" if role == "place" else "place"
        f, g = replace(f, **{mine: details[mine][0]}), replace(g, **{its: details[its][0]})
        question = ask(f, role, dice)
        if label:
            f, g = (replace(f, place=g.place, time=g.time), replace(g, place=f.place, time=f.time))
    else:
        question = ask(f, role, dice)
        if label:
            f, g = crossed(f, g, dice)
    if dice.chance(0.5):
        f, g = g, f
    return (sentence(question), sentence(join(say(f, dice), say(g, dice), dice))), label


RELATIONS = ("entailment", "neutral", "contradiction")


def infer(dice: Dice, words: Lexicon, relation: str, pair: float) -> tuple[str, str]:
    """A premise of one or (with probability `pair`) two facts and a hypothesis about the first."""
    denied = dice.chance(0.45)
    while True:
        f = invent(dice, words, detail=0.4)
        h = hypothesis(dice, words, f, relation, denied)
        if h is None:
            continue
        premise = said = say(f, dice)
        if dice.chance(pair):
            g = say(invent(dice, words, detail=0.1), dice)
            premise = join(*((said, g) if dice.chance(0.5) else (g, said)), dice)[:-2]
        second = reword(dice, said, lambda: say(h, dice), relation == "entailment", PUSH["infer"])  # noqa: B023
        return sentence(premise + " ."), sentence(second + " .")


def mnli(dice: Dice, words: Lexicon, label: int) -> Row:
    return infer(dice, words, RELATIONS[label], 0.25), label


def rte(dice: Dice, words: Lexicon, label: int) -> Row:
    relation = dice.pick(RELATIONS[1:]) if label else RELATIONS[0]
    return infer(dice, words, relation, 0.7), label


def stsb(dice: Dice, words: Lexicon, label: int) -> Row:
    """Score 0 to 5: the share of meaning in common. What was exchanged may still be mentioned ("not the nurse")."""
    f = invent(dice, words, "meet meet handle give", 0.35)
    g = f
    for _ in range(dice.below(4)):
        g = dice.pick((other, other, against, more))(dice, words, g)
    first, score = say(f, dice), likeness(f, g)
    second = reword(dice, first, lambda: say(g, dice), score > 0.6, PUSH["stsb"])
    return (sentence(first + " ."), sentence(second + " .")), round(5 * score, 1)


TASKS: dict[str, Callable[[Dice, Lexicon, int], Row]] = {
    "mnli": mnli, "sst2": sst2, "mrpc": mrpc, "cola": cola, "qnli": qnli, "qqp": qqp, "rte": rte, "stsb": stsb,
}  # fmt: skip
