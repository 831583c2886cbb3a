"""What follows from a fact of the small world, what it rules out, what it leaves open, and how alike two facts are.

The rules are those of everyday inference: a fact entails what is less specific, and the denial of its opposite; two
opposites exclude each other; one event has one place and one count of things. A change of participants or an added
detail leaves the truth open. "The medic" and "the doctor" of two sentences are the same person.
"""

from __future__ import annotations

from dataclasses import replace

from .lexicon import HYPERNYM, HYPONYMS, MANNERS, NUMBERS, OPPOSITE, SORT, SORTS, Dice, Lexicon
from .world import Fact, Thing, invent, thing


def less(dice: Dice, fact: Fact) -> Fact:
    """A less specific fact, true whenever this one is (for a denied fact: apply it to what is denied)."""
    options: list[Fact] = []
    for role in "abc":
        part: Thing | None = getattr(fact, role)
        if part is None or fact.kind == "every":
            continue
        if part.adj:
            options.append(replace(fact, **{role: replace(part, adj=None)}))
        if part.noun in HYPERNYM:
            options += [replace(fact, **{role: replace(part, noun=HYPERNYM[part.noun])})] * 2
    if fact.place and fact.kind != "every":
        options += [replace(fact, place=None)] * 2
    if fact.time:
        options += [replace(fact, time=None)] * 2
    if fact.kind == "alone" and fact.head in HYPERNYM:
        options += [replace(fact, head=HYPERNYM[fact.head])] * 3
    if fact.kind == "every":
        options += _less_every(dice, fact)
    return dice.pick(options) if options else fact


def _less_every(dice: Dice, fact: Fact) -> list[Fact]:
    noun, q = fact.a.noun, fact.quantifier
    options = []
    if q in ("all", "no") and noun in HYPONYMS:
        options += [replace(fact, a=Thing(dice.pick(_common(noun))))] * 2
    if q in ("some", "not all") and noun in HYPERNYM:
        options.append(replace(fact, a=Thing(HYPERNYM[noun])))
    if q in ("all", "no"):
        options.append(replace(fact, quantifier={"all": "some", "no": "not all"}[q]))
    if fact.head in HYPERNYM and q in ("all", "some"):
        options.append(replace(fact, head=HYPERNYM[fact.head]))
    return options


def _common(noun: str) -> list[str]:
    return [n for n in HYPONYMS[noun] if not n[0].isupper()]


def more(dice: Dice, words: Lexicon, fact: Fact) -> Fact:
    """A more specific fact, which this one leaves open."""
    options: list[Fact] = []
    for role in "abc":
        part: Thing | None = getattr(fact, role)
        if part is None or part.named or fact.kind == "every":
            continue
        if part.noun in HYPONYMS:
            options.append(replace(fact, **{role: replace(part, noun=dice.pick(_common(part.noun)))}))
        if not part.adj and not (fact.kind == "is" and role == "a"):
            adjectives = words.looks if SORT[part.noun] == "thing" else words.moods
            options.append(replace(fact, **{role: replace(part, adj=dice.pick(adjectives))}))
    if not fact.place and fact.kind not in ("rel", "is", "every"):
        options += [replace(fact, place=dice.pick(words.nouns["place"]))] * 2
    if not fact.time and fact.kind not in ("rel", "is", "every"):
        options += [replace(fact, time=dice.pick(words.times))] * 2
    if fact.kind == "alone" and fact.head in MANNERS:
        options += [replace(fact, head=dice.pick(MANNERS[fact.head].split()))] * 3
    if fact.kind == "every":
        if fact.quantifier in ("some", "not all"):
            options.append(replace(fact, quantifier={"some": "all", "not all": "no"}[fact.quantifier]))
        elif fact.a.noun in HYPERNYM:
            options.append(replace(fact, a=Thing(HYPERNYM[fact.a.noun])))
    return dice.pick(options) if options else other(dice, words, fact)


def other(dice: Dice, words: Lexicon, fact: Fact) -> Fact:
    """The same fact with one part exchanged, which the first leaves open: who, whom, or what was done."""
    swapped = replace(fact, a=fact.b, b=fact.a) if fact.kind in ("meet", "give") else None
    if swapped and dice.chance(0.5):
        return swapped
    roles = [role for role in "abc" if getattr(fact, role) and getattr(fact, role).noun not in SORTS]
    if fact.kind != "give" and (not roles or dice.chance(0.35)):
        head = fact.head
        while related(head, fact.head) or head == OPPOSITE.get(fact.head):
            head = invent(dice, words, fact.kind).head
        return replace(fact, head=head)
    if not roles:
        return swapped
    role = dice.pick(roles)
    old, taken = getattr(fact, role), [getattr(fact, r).noun for r in "abc" if getattr(fact, r)]
    new = thing(dice, words, SORT[old.noun], 0.0)
    while (new.named and fact.kind == "every") or any(related(new.noun, noun) for noun in taken if noun not in SORTS):
        new = thing(dice, words, SORT[old.noun], 0.0)
    return replace(fact, **{role: new if new.named else replace(new, adj=old.adj, count=old.count)})


def above(x: str, y: str) -> bool:
    """Whether y is x itself or a more general word."""
    return x == y or (x in HYPERNYM and above(HYPERNYM[x], y))


def related(x: str, y: str) -> bool:
    return above(x, y) or above(y, x)


def against(dice: Dice, words: Lexicon, fact: Fact) -> Fact:
    """A fact that cannot hold together with this one, worded without a denial where that is possible."""
    if fact.kind == "every":
        return replace(fact, quantifier={"all": dice.pick(("no", "not all")), "no": dice.pick(("some", "all")),
                                         "some": "no", "not all": "all"}[fact.quantifier])  # fmt: skip
    options: list[Fact] = []
    if OPPOSITE.get(fact.head):
        options += [replace(fact, head=OPPOSITE[fact.head])] * 3
    if fact.kind == "rel":
        options += [replace(fact, a=fact.b, b=fact.a)] * 2
    if fact.place:
        options.append(replace(fact, place=dice.pick([p for p in words.nouns["place"] if p != fact.place])))
    for role in "abc":
        part = getattr(fact, role)
        if part is not None and part.count > 1 and fact.kind not in ("rel", "is", "every"):
            options.append(
                replace(fact, **{role: replace(part, count=dice.pick([n for n in NUMBERS if n != part.count]))})
            )
    return dice.pick(options) if options else fact.denied()


def follows(fact: Fact, general: Fact) -> bool:
    """Whether the second fact says nothing that the first does not (not meant for quantified facts)."""

    parts = [(getattr(fact, role), getattr(general, role)) for role in "abc" if getattr(fact, role)]
    details = [(fact.place, general.place), (fact.time, general.time), *((x.adj, y.adj) for x, y in parts)]
    return all(y in (None, x) for x, y in details) and all(
        above(x, y) for x, y in [(fact.head, general.head), *((x.noun, y.noun) for x, y in parts)]
    )


def hypothesis(dice: Dice, words: Lexicon, fact: Fact, relation: str, denied: bool) -> Fact | None:
    """A fact in the given relation to a true fact: "entailment", "neutral" or "contradiction".

    All relations start from a less specific version, and each comes affirmed and denied, so that neither general words
    nor "not" tell anything by themselves. None where this fact allows no such hypothesis."""
    steps = dice.pick((0, 1, 1, 2))
    if fact.kind == "every" and denied:
        return None
    detailed = relation == "neutral" and dice.chance(0.35)
    start = more(dice, words, fact) if detailed else fact
    for _ in range(0 if detailed and fact.kind == "every" else steps):
        start = less(dice, start)
    if detailed and follows(fact, start):  # the added detail was left out again
        return None
    if relation == "neutral":
        result = start if detailed else other(dice, words, start)
    elif (relation == "entailment") != denied:
        result = start
    else:  # an affirmed opposite contradicts; a denied opposite follows
        result = against(dice, words, start)
    if not result.true:
        return None
    return result.denied() if denied else result


def likeness(f: Fact, g: Fact) -> float:
    """How much two facts of one kind share, 0 to 1: who, whom, what was done, where, when, whether."""

    def nouns(x: Thing, y: Thing) -> float:
        same = 1.0 if x.noun == y.noun else 0.4 if HYPERNYM.get(x.noun, x) == HYPERNYM.get(y.noun, y) else 0.0
        return same * (1.0 if (x.adj, x.count) == (y.adj, y.count) else 0.75)

    weights, total = [], 0.0
    head = 1.0 if f.head == g.head else 0.3 if OPPOSITE.get(f.head) == g.head else 0.0
    parts = [(2.0, head)] + [
        (1.5, nouns(getattr(f, r), getattr(g, r))) for r in "abc" if getattr(f, r) and getattr(g, r)
    ]
    for role in ("place", "time"):
        x, y = getattr(f, role), getattr(g, role)
        if x or y:
            parts.append((0.7, 1.0 if x == y else 0.4 if not (x and y) else 0.0))
    if f.true != g.true:
        parts.append((2.0, 0.0))
    for weight, value in parts:
        weights.append(weight)
        total += weight * value
    return total / sum(weights)
