"""Facts of the small world: what they consist of, how they are said and asked about."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .lexicon import (
    CONVERSE,
    NUMBERS,
    OPPOSITE,
    QUANTIFIERS,
    TRANSFER,
    Dice,
    Lexicon,
    participle,
    past,
    plural,
)  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """A participant: "the old doctor", "three dogs", "Anna"."""

    noun: str
    adj: str | None = None
    count: int = 1

    @property
    def named(self) -> bool:
        return self.noun[0].isupper()

    def say(self, dice: Dice) -> str:
        if self.named:
            return self.noun
        noun, adj = word(self.noun, dice), word(self.adj, dice) + " " if self.adj else ""
        if self.count > 1:
            return f"{NUMBERS[self.count]} {adj}{plural(noun)}"
        return f"the {adj}{noun}"


@dataclass(frozen=True)
class Fact:
    """One statement. kind: "meet" and "handle" (a does head to b), "alone" (a does head), "give" (a transfers c to b),
    "rel" (a head b), "is" (a is head), "every" (quantifier over the noun of a, then head)."""

    kind: str
    head: str
    a: Thing
    b: Thing | None = None
    c: Thing | None = None
    place: str | None = None
    time: str | None = None
    true: bool = True
    quantifier: str | None = None

    def denied(self) -> Fact:
        return replace(self, true=not self.true)


def word(concept: str, dice: Dice) -> str:
    return dice.pick(concept.split("/")) if "/" in concept else concept


# --- making facts up -------------------------------------------------------------------------------------------------
def thing(dice: Dice, words: Lexicon, sorts: str = "person animal", detail: float = 0.25) -> Thing:
    sort = dice.pick(sorts.split())
    noun = dice.pick(words.nouns[sort])
    if noun[0].isupper():
        return Thing(noun)
    adj = dice.pick(words.looks if sort == "thing" else words.moods) if dice.chance(detail) else None
    return Thing(noun, adj, dice.pick([2, 3, 4, 5, 6]) if dice.chance(0.12) else 1)


KINDS = "meet meet meet handle handle give rel rel alone alone is is every"


def invent(dice: Dice, words: Lexicon, kinds: str = KINDS, detail: float = 0.25) -> Fact:
    """A new fact; `detail` is the probability of each adjective, place and time."""
    kind = dice.pick(kinds.split())
    a = thing(dice, words, "person" if kind in ("handle", "give") else "person animal", detail)
    b = c = None
    if kind in ("meet", "rel", "give"):
        b = thing(dice, words, "person" if kind == "give" else "person animal", detail)
        while b.noun == a.noun:
            b = thing(dice, words, "person" if kind == "give" else "person animal", detail)
    if kind == "handle":
        b = thing(dice, words, "thing", detail)
    if kind == "give":
        c = thing(dice, words, "thing", detail)
    place = dice.pick(words.nouns["place"]) if kind not in ("rel", "is") and dice.chance(detail) else None
    time = dice.pick(words.times) if kind not in ("rel", "is", "every") and dice.chance(detail) else None
    heads = {
        "meet": words.meet, "handle": words.handle, "give": words.transfer, "rel": words.relations,
        "alone": words.alone, "is": words.moods, "every": words.alone if dice.chance(0.5) else words.moods,
    }[kind]  # fmt: skip
    quantifier = None
    if kind == "is":
        a = replace(a, adj=None)
    if kind == "every":
        nouns = [n for n in words.nouns["person"] + words.nouns["animal"] if not n[0].isupper()]
        nouns += [n for n in ("artist", "medic", "official", "bird", "mammal", "soldier", "fish") if dice.chance(0.5)]
        a = Thing(dice.pick(nouns))
        quantifier = dice.pick(QUANTIFIERS)
    return Fact(kind, dice.pick(heads), a, b, c, place, time, True, quantifier)


# --- saying them -----------------------------------------------------------------------------------------------------
def say(fact: Fact, dice: Dice) -> str:
    """One of the ways to word the fact, words separated by blanks, without a final mark."""
    where = f"at the {word(fact.place, dice)}" if fact.place and fact.kind != "every" else ""
    when = fact.time or ""
    core = {
        "rel": _say_relation,
        "is": _say_state,
        "every": _say_every,
        "give": _say_transfer,
        "alone": _say_alone,
    }.get(fact.kind, _say_act)(fact, dice)
    if when and dice.chance(0.25):
        return f"{when} , {core} {where}"
    return f"{core} {where} {when}" if dice.chance(0.7) else f"{core} {when} {where}"


def _verb(fact: Fact, lemma: str, dice: Dice) -> str:
    if fact.true:
        return past(lemma)
    return f"{dice.pick(('did not', 'did not', 'never'))} {lemma}".replace(f"never {lemma}", f"never {past(lemma)}")


def _was(fact: Fact, subject: Thing) -> str:
    return ("was" if subject.count == 1 else "were") + ("" if fact.true else " not")


def _say_act(fact: Fact, dice: Dice) -> str:
    lemma, (a, b) = word(fact.head, dice), (fact.a.say(dice), fact.b.say(dice))
    if fact.head in CONVERSE and dice.chance(0.4):
        lemma = word(CONVERSE[fact.head], dice)
        return f"{b} {_verb(fact, lemma, dice)} {'from ' if lemma in ('flee', 'escape') else ''}{a}"
    form = dice.random()
    if form < 0.55:
        return f"{a} {_verb(fact, lemma, dice)} {b}"
    if form < 0.9:
        return f"{b} {_was(fact, fact.b)} {participle(lemma)} by {a}"
    return f"it was {a} who {_verb(fact, lemma, dice)} {b}"


def _say_alone(fact: Fact, dice: Dice) -> str:
    return f"{fact.a.say(dice)} {_verb(fact, word(fact.head, dice), dice)}"


def _say_transfer(fact: Fact, dice: Dice) -> str:
    a, b, c = fact.a.say(dice), fact.b.say(dice), fact.c.say(dice)
    if dice.chance(0.4):
        return f"{b} {_verb(fact, word(TRANSFER[fact.head], dice), dice)} {c} from {a}"
    lemma = word(fact.head, dice)
    if dice.chance(0.3):
        return f"{c} {_was(fact, fact.c)} {participle(lemma)} to {b} by {a}"
    return f"{a} {_verb(fact, lemma, dice)} {c} to {b}"


def _say_relation(fact: Fact, dice: Dice) -> str:
    head, a, b = fact.head, fact.a, fact.b
    if dice.chance(0.5):
        head, a, b = OPPOSITE[head], b, a
    words = word(head, dice)
    while not fact.true and " not " in words:
        words = word(head, dice)
    verb, rest = words.split(" ", 1)
    if verb == "is":
        verb = ("is" if a.count == 1 else "are") + ("" if fact.true else " not")
    elif not fact.true:
        verb = {"arrived": "did not arrive", "came": "did not come", "left": "did not leave"}[verb]
    return f"{a.say(dice)} {verb} {rest} {b.say(dice)}"


def _say_state(fact: Fact, dice: Dice) -> str:
    verb = "is" if fact.a.count == 1 else "are"
    middle = "" if fact.true else dice.pick(("not", "not", "far from", "anything but"))
    return f"{fact.a.say(dice)} {verb} {middle} {word(fact.head, dice)}"


def _say_every(fact: Fact, dice: Dice) -> str:
    noun, state = word(fact.a.noun, dice), fact.head in _STATES
    where = f"at the {word(fact.place, dice)}" if fact.place else ""
    lemma = word(fact.head, dice)
    if (fact.quantifier == "all" and dice.chance(0.4)) or (fact.quantifier == "no" and dice.chance(0.4)):
        subject = f"{'every' if fact.quantifier == 'all' else 'no'} {noun} {where}"
        return f"{subject} is {lemma}" if state else f"{subject} {past(lemma)}"
    some = dice.pick(("some", "several")) if fact.quantifier == "some" else fact.quantifier
    subject = f"{some}{dice.pick((' the', '')) if 'all' in some else ''} {plural(noun)} {where}"
    return f"{subject} are {lemma}" if state else f"{subject} {past(lemma)}"


_STATES = frozenset(Lexicon().moods + Lexicon().looks)


# --- asking ----------------------------------------------------------------------------------------------------------
def ask(fact: Fact, role: str, dice: Dice) -> str:
    """A question whose answer is the given role ("a", "b", "c", "place" or "time") of a true act or transfer."""
    a, b = fact.a.say(dice), fact.b.say(dice)
    where = f"at the {word(fact.place, dice)}" if fact.place and role != "place" else ""
    when = fact.time if fact.time and role != "time" else ""
    tail = f"{where} {when} ?"
    if fact.kind == "give":
        c, lemma, back = fact.c.say(dice), word(fact.head, dice), word(TRANSFER[fact.head], dice)
        return dice.pick({
            "a": (f"who {past(lemma)} {c} to {b}", f"from whom did {b} {back} {c}"),
            "b": (f"who {past(back)} {c} from {a}", f"to whom did {a} {lemma} {c}"),
            "c": (f"what did {a} {lemma} to {b}", f"what did {b} {back} from {a}"),
            "place": (f"where did {a} {lemma} {c} to {b}", f"where did {b} {back} {c} from {a}"),
            "time": (f"when did {a} {lemma} {c} to {b}", f"when did {b} {back} {c} from {a}"),
        }[role]) + f" {tail}"  # fmt: skip
    lemma, was = word(fact.head, dice), "was" if fact.b.count == 1 else "were"
    what = "what" if fact.kind == "handle" else "whom"
    return dice.pick({
        "a": (f"who {past(lemma)} {b}", f"by whom {was} {b} {participle(lemma)}"),
        "b": (f"{what} did {a} {lemma}", f"{what.replace('whom', 'who')} was {participle(lemma)} by {a}"),
        "place": (f"where did {a} {lemma} {b}", f"where {was} {b} {participle(lemma)} by {a}"),
        "time": (f"when did {a} {lemma} {b}", f"when {was} {b} {participle(lemma)} by {a}"),
    }[role]) + f" {tail}"  # fmt: skip
