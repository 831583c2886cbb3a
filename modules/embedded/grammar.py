"""Well-formed and ill-formed sentences (CoLA's question).

Almost every ill-formed sentence is built from the very words of a well-formed one, so that only structure tells
them apart: agreement across distractors, reflexives, verb frames, word order, determiners, auxiliaries, gaps,
polarity items, correlatives and selection.
"""

from __future__ import annotations

from .lexicon import GENDERED, MANNERS, Dice, Lexicon, participle, past, plural, third

PREPOSITIONS = ("near", "behind", "beside", "opposite")


def _nouns(dice: Dice, words: Lexicon, k: int, sorts: str = "person animal") -> list[str]:
    pool = [n for s in sorts.split() for n in words.nouns[s] if not n[0].isupper()]
    return [dice.pick(n.split("/")) for n in dice.sample(pool, k)]


def _verb(dice: Dice, table: list[str]) -> str:
    return dice.pick(dice.pick(table).split("/"))


def _np(noun: str, many: bool) -> str:
    return f"the {plural(noun) if many else noun}"


def agreement(dice: Dice, words: Lexicon, good: bool) -> str:
    """The verb agrees with its subject, not with the noun beside it."""
    n1, n2, n3 = _nouns(dice, words, 3)
    many, others = dice.chance(0.5), dice.chance(0.5)
    v1, v2 = _verb(dice, words.meet), _verb(dice, words.meet)
    form = v1 if many == good else third(v1)
    if dice.chance(0.5):
        return f"{_np(n1, many)} {dice.pick(PREPOSITIONS)} {_np(n2, others)} {form} the {n3} ."
    if dice.chance(0.5):
        return f"{_np(n1, many)} that {_np(n2, others)} {v2 if others else third(v2)} {form} the {n3} ."
    inner = v2 if others == good else third(v2)  # here the verb of the relative clause is at stake
    return f"{_np(n1, many)} that {_np(n2, others)} {inner} {v1 if many else third(v1)} the {n3} ."


def reflexive(dice: Dice, words: Lexicon, good: bool) -> str:
    """himself and herself look for a subject of their own clause."""
    pair = dice.pick(GENDERED)
    i = dice.below(2)
    subject, rival = pair[i], dice.pick(GENDERED)[1 - i]
    own = ("himself", "herself")[i if good else 1 - i]
    v1, v2 = past(_verb(dice, words.meet)), past(_verb(dice, words.meet))
    return dice.pick((
        f"the {subject} who {v1} the {rival} {v2} {own} .",
        f"the {subject} that the {rival} {v1} {v2} {own} .",
        f"the {rival} knew that the {subject} {v1} {own} .",
        f"the {subject} {dice.pick(PREPOSITIONS)} the {rival} {v1} {own} .",
    ))  # fmt: skip


def frame(dice: Dice, words: Lexicon, good: bool) -> str:
    """Some verbs need an object, others allow none."""
    n1, n2, n3 = _nouns(dice, words, 3)
    alone, meet = past(_verb(dice, words.alone)), past(_verb(dice, words.meet))
    left, right = (f"the {n1} {alone}", f"the {n2} {meet} the {n3}")
    if not good:
        left, right = (f"the {n1} {alone} the {n3}", f"the {n2} {meet}")
    if dice.chance(0.5):
        left, right = right, left
    return f"{left} {dice.pick(('and', 'while', 'because'))} {right} ."


def order(dice: Dice, words: Lexicon, good: bool) -> str:
    """Adjective before noun, auxiliary before participle, preposition before its object."""
    n1, n2 = _nouns(dice, words, 2)
    tokens = f"the {_verb(dice, words.moods)} {n1} has {participle(_verb(dice, words.meet))} the {n2}".split()
    tokens += f"at the {dice.pick(dice.pick(words.nouns['place']).split('/'))}".split()
    if dice.chance(0.3):
        tokens = [tokens[3], *tokens[:3], *tokens[4:]]
    mark = "?" if tokens[0] == "has" else "."
    if not good:
        i = dice.pick([k for k in range(1, len(tokens) - 1) if {tokens[k], tokens[k + 1]} != {"has"}])
        if tokens[i : i + 2] == ["at", "the"] and dice.chance(0.5):
            i -= 1
        tokens[i], tokens[i + 1] = tokens[i + 1], tokens[i]
    return " ".join(tokens) + f" {mark}"


def determiner(dice: Dice, words: Lexicon, good: bool) -> str:
    """this dog, these dogs; and nothing in between changes that."""
    n1, n2 = _nouns(dice, words, 2)
    one, many = dice.pick((("this", "these"), ("that", "those"), ("every", "several"), ("a single", "many")))
    verb = past(_verb(dice, words.meet))
    adj = [_verb(dice, words.moods) if dice.chance(0.5) else "" for _ in range(2)]
    first, second = (one, many) if good else (many, one)
    if dice.chance(0.5):
        return f"{first} {adj[0]} {n1} {verb} {second} {adj[1]} {plural(n2)} ."
    return f"{second} {adj[1]} {plural(n2)} {verb} {first} {adj[0]} {n1} ."


def auxiliary(dice: Dice, words: Lexicon, good: bool) -> str:
    """has takes a participle, will and did a bare verb."""
    n1, n2, n3 = _nouns(dice, words, 3)
    v1, v2 = _verb(dice, words.meet), _verb(dice, words.meet)
    a, b = (participle(v1), v2) if good else (v1, participle(v2))
    bare = dice.pick(("will", "must", "can"))
    adverb = dice.pick(("", "", "often", "already", "never"))
    parts = [f"has {adverb} {a} the {n2}", f"{bare} {b} the {n3}"]
    if dice.chance(0.5):
        parts.reverse()
    return f"the {n1} {parts[0]} and {parts[1]} ."


def gap(dice: Dice, words: Lexicon, good: bool) -> str:
    """what leaves a gap behind; that does not."""
    n1, n2 = _nouns(dice, words, 2, "person")
    verb, what = past(_verb(dice, words.handle)), dice.chance(0.5)
    thing = _nouns(dice, words, 1, "thing")[0]
    know = dice.pick(("knows", "remembers", "said", "forgot"))
    filled = f"the {thing}" if what != good else ""
    if dice.chance(0.3):
        return f"{'what did' if what else 'did'} the {n1} say that the {n2} {verb} {filled} ?"
    return f"the {n1} {know} {'what' if what else 'that'} the {n2} {verb} {filled} ."


def polarity(dice: Dice, words: Lexicon, good: bool) -> str:
    """ever and any need a denial above them, not merely beside them."""
    n1, n2, n3 = _nouns(dice, words, 3)
    v1, v2 = past(_verb(dice, words.meet)), participle(_verb(dice, words.meet))
    first, second = ("no", "the") if good else ("the", "no")
    item = dice.pick(("ever {v} the {c}", "{v} any {c}"))
    rest = item.replace("{v}", v2).replace("{c}", plural(n3) if "any" in item else n3)
    return f"{first} {n1} {dice.pick(('that', 'who'))} {v1} {second} {n2} has {rest} ."


def correlative(dice: Dice, words: Lexicon, good: bool) -> str:
    """either ... or, neither ... nor, both ... and."""
    n = _nouns(dice, words, 4)
    verb = past(_verb(dice, words.meet))
    (x1, y1), (x2, y2) = dice.sample((("either", "or"), ("neither", "nor"), ("both", "and")), 2)
    if not good:
        y1, y2 = y2, y1
    return f"{x1} the {n[0]} {y1} the {n[1]} {verb} {x2} the {n[2]} {y2} the {n[3]} ."


def selection(dice: Dice, words: Lexicon, good: bool) -> str:
    """Things do not repair persons."""
    (who,), (what,) = _nouns(dice, words, 1, "person"), _nouns(dice, words, 1, "thing")
    verb = _verb(dice, words.handle)
    a, b = (who, what) if good else (what, who)
    if dice.chance(0.4):
        a, b, verb = b, a, f"was {participle(verb)} by"
    else:
        verb = past(verb)
    return f"the {a} {verb} the {b} ."


DEGREES = (("taller", "tall"), ("older", "old"), ("stronger", "strong"), ("richer", "rich"), ("faster", "fast"))


def comparison(dice: Dice, words: Lexicon, good: bool) -> str:
    """taller than, as tall as."""
    n = _nouns(dice, words, 4)
    more, plain = dice.pick(DEGREES)
    parts = [f"{more} than the {n[1]}", f"as {plain} as the {n[3]}"]
    if not good:
        parts = [f"{plain} than the {n[1]}", f"as {more} as the {n[3]}"]
    if dice.chance(0.5):
        parts.reverse()
    return f"the {n[0]} is {parts[0]} and the {n[2]} is {parts[1]} ."


PHENOMENA = (agreement, agreement, reflexive, frame, order, determiner, auxiliary, gap, polarity, correlative,
             selection, comparison)  # fmt: skip


def form_sentence(dice: Dice, words: Lexicon, good: bool) -> str:
    """A well-formed (good) or ill-formed sentence, words separated by blanks."""
    return dice.pick(PHENOMENA)(dice, words, good)


def slip(dice: Dice, text: str) -> str:
    """The sentence as a careless hand writes it: two neighbours swapped, a word lost, doubled or wrongly inflected."""
    tokens = text.split()
    i = dice.below(len(tokens) - 2)
    kind = dice.below(5)
    if kind == 0:
        tokens[i], tokens[i + 1] = tokens[i + 1], tokens[i]
    elif kind == 1:
        del tokens[i]
    elif kind == 2:
        j = dice.below(len(tokens) - 1)
        tokens[i], tokens[j] = tokens[j], tokens[i]
    else:
        swaps = [(k, SLIPS[t]) for k, t in enumerate(tokens) if t in SLIPS]
        if swaps:
            k, wrong = dice.pick(swaps)
            tokens[k] = wrong
        else:
            tokens[i], tokens[i + 1] = tokens[i + 1], tokens[i]
    return " ".join(tokens)


def _slips() -> dict[str, str]:
    pairs = [("himself", "herself"), ("this", "these"), ("that", "those"), ("is", "are"), ("was", "were"),
             ("or", "nor"), ("either", "neither"), ("than", "as"), ("what", "that"), ("no", "the")]  # fmt: skip
    everything = Lexicon()
    for concept in everything.meet + everything.handle + list(MANNERS):
        for lemma in concept.split("/"):
            pairs += [(lemma, third(lemma)), (third(lemma), lemma), (participle(lemma), lemma)]
    table: dict[str, str] = {}
    for x, y in pairs:
        table.setdefault(x, y)
        table.setdefault(y, x)
    return table


SLIPS = _slips()
