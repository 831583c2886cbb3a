"""The small world: who did what to whom, where; how it is told, what is asked about it, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .lexicon import GROUP, OPPOSITE, PLACES, Dice, Lexicon

ROLES = ("agent", "patient", "place")


@dataclass(frozen=True)
class Fact:
    """Concepts of `lexicon`; agent and patient may also be the name of a group ("medic"). `true` False: it never
    happened."""

    agent: str
    verb: str
    patient: str
    place: str | None = None
    true: bool = True

    def swapped(self) -> Fact:
        """Agent and patient exchanged."""
        return replace(self, agent=self.patient, patient=self.agent)

    def denied(self) -> Fact:
        """The same deed, denied where it was told and told where it was denied."""
        return replace(self, true=not self.true)

    def reversed(self) -> Fact:
        """The opposite was done."""
        return replace(self, verb=OPPOSITE[self.verb])


def invent(dice: Dice, words: Lexicon, place: float = 0.3, group: float = 0.0) -> Fact:
    """A fact about two people of different groups; `place`, `group`: chances of a place and of a group's name."""
    agent, patient = (dice.pick(words.groups[name]) for name in dice.sample(words.groups, 2))
    agent, patient = (GROUP[who] if dice.chance(group) else who for who in (agent, patient))
    where = dice.pick(PLACES) if dice.chance(place) else None
    return Fact(agent, dice.pick(list(OPPOSITE)), patient, where)


# --- telling and asking ----------------------------------------------------------------------------------------------
def say(fact: Fact, dice: Dice) -> str:
    """One of many wordings: synonyms, voice, emphasis and place vary. No full stop."""
    a, p, did = f"the {dice.word(fact.agent)}", f"the {dice.word(fact.patient)}", dice.word(fact.verb)
    never = "" if fact.true else "never "
    forms = [f"{a} {never}{did} {p}", f"{p} was {never}{did} by {a}"]
    if fact.true:
        forms += [f"it was {a} who {did} {p}", f"it was {p} whom {a} {did}"]
    told = dice.pick(forms)
    if not fact.place:
        return told
    where = f"in the {dice.word(fact.place)}"
    return f"{told} {where}" if dice.chance(0.6) else f"{where} {told}"


def ask(fact: Fact, role: str, dice: Dice) -> str:
    """A question whose answer is the fact's agent, patient or place. Ends in " ?"."""
    a, p, did = f"the {dice.word(fact.agent)}", f"the {dice.word(fact.patient)}", dice.word(fact.verb)
    where = f"in the {dice.word(fact.place)} " if fact.place and role != "place" else ""
    return {
        "agent": dice.pick((f"who {did} {p} {where}?", f"by whom was {p} {did} {where}?")),
        "patient": dice.pick((f"who was {did} by {a} {where}?", f"whom had {a} {did} {where}?")),
        "place": dice.pick((f"where was {p} {did} by {a} ?", f"where had {a} {did} {p} ?")),
    }[role]


def roles(fact: Fact) -> list[str]:
    """What can be asked about a fact."""
    return [role for role in ROLES if getattr(fact, role)]


# --- what follows, what is excluded, what is left open ---------------------------------------------------------------
def less(dice: Dice, fact: Fact) -> Fact:
    """A less specific fact, which follows from this one (from a denied one nothing less specific does)."""
    options = [replace(fact, **{role: GROUP[who]}) for role in ROLES[:2] if (who := getattr(fact, role)) in GROUP]
    if fact.place:
        options.append(replace(fact, place=None))
    return dice.pick(options) if options else fact


def other(dice: Dice, words: Lexicon, fact: Fact) -> Fact:
    """Somebody else of the same group did it, or had it done to them."""
    role = dice.pick([role for role in ROLES[:2] if getattr(fact, role) in GROUP] or ["verb"])
    old = getattr(fact, role)
    alike = [v for v in OPPOSITE if v not in (old, OPPOSITE[old])] if role == "verb" else [
        who for who in words.groups[GROUP[old]] if who != old
    ]  # fmt: skip
    return replace(fact, **{role: dice.pick(alike)})


def elsewhere(dice: Dice, words: Lexicon, fact: Fact) -> Fact:
    """The same at another place; where none is told, somebody else."""
    if not fact.place:
        return other(dice, words, fact)
    return replace(fact, place=dice.pick([place for place in PLACES if place != fact.place]))


def more(dice: Dice, words: Lexicon, fact: Fact) -> Fact:
    """A more specific fact, which this one leaves open; where it is as specific as can be, another one."""
    vague = [role for role in ROLES[:2] if getattr(fact, role) in words.groups]
    if not vague:
        return other(dice, words, fact)
    role = dice.pick(vague)
    return replace(fact, **{role: dice.pick(words.groups[getattr(fact, role)])})


def swap(dice: Dice, words: Lexicon, fact: Fact) -> Fact:
    """The same two people the other way round."""
    return fact.swapped()


CHANGES: tuple[Callable[[Dice, Lexicon, Fact], Fact], ...] = (swap, swap, other, elsewhere)
RELATIONS = ("entailment", "neutral", "contradiction")


def hypothesis(dice: Dice, words: Lexicon, fact: Fact, relation: str, denials: float = 0.5) -> Fact:
    """A fact in the given relation to a true one: "entailment", "neutral" or "contradiction".

    Every relation comes with opposites, denials, both and neither, equally often, so that neither "never" nor a verb
    tells anything by itself. In this world two people meet once, and to deny the opposite is to affirm.
    """
    told = less(dice, fact) if dice.chance(0.5) else fact
    if relation == "neutral":
        told = dice.pick((swap, swap, other, more))(dice, words, told)
    denied = dice.chance(denials)
    turned = dice.chance(0.5) if relation == "neutral" else denied == (relation == "entailment")
    told = told.reversed() if turned else told
    return told.denied() if denied else told


def likeness(f: Fact, g: Fact) -> float:
    """How much two facts share, 0 to 1: who (in which role), what was done, where."""

    def person(x: str, y: str) -> float:
        return 1.0 if x == y else 0.4 if GROUP.get(x, x) == GROUP.get(y, y) else 0.0

    verb = 1.0 if f.verb == g.verb else 0.3 if f.verb == OPPOSITE[g.verb] else 0.0
    parts = [(1.5, person(f.agent, g.agent)), (1.5, person(f.patient, g.patient)), (1.5, verb)]
    if f.place or g.place:
        parts.append((0.7, 1.0 if f.place == g.place else 0.4 if not (f.place and g.place) else 0.0))
    return sum(weight * value for weight, value in parts) / sum(weight for weight, _ in parts)
