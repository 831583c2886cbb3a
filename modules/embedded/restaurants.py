"""Restaurants in E2E's shape: meaning representations with several sentences each, deterministic by seed.

Every sentence says every slot once. What varies is the order, what is joined into one sentence, and the words: several
for each value, so that the scores against all references of an input tell a fluent output from a broken one. Everything
is written as the LoRA authors' files have it, with blanks between tokens.
"""

from __future__ import annotations

from .lexicon import Dice

SIZES = {"train": (300, 6), "validation": (50, 6), "test": (120, 8)}
"""Split -> (meaning representations, sentences of each)."""

FIRST = [
    "Silver",
    "Golden",
    "Old",
    "Green",
    "Blue",
    "Red",
    "White",
    "Black",
    "Quiet",
    "Happy",
    "Lucky",
    "Little",
    "Royal",
    "Northern",
    "Southern",
    "Hidden",
]
SECOND = [
    "Oak",
    "Harbor",
    "Mill",
    "Lantern",
    "Anchor",
    "Garden",
    "Bridge",
    "Tower",
    "Crown",
    "Star",
    "Swan",
    "Fox",
    "Bear",
    "Rose",
    "Spoon",
    "Kettle",
]
NAMES = [f"{first} {second}" for first in FIRST for second in SECOND]
SEEN = 0.6
"""Share of the names that training uses; evaluation uses all."""

VALUES = {
    "Type": ("pub", "restaurant", "coffee shop"),
    "food": ("Italian", "French", "Chinese", "Indian", "Japanese", "English", "Fast food"),
    "price": ("cheap", "moderate", "high", "less than £ 20", "£ 20 - 25", "more than £ 30"),
    "customer rating": ("low", "average", "high", "1 out of 5", "3 out of 5", "5 out of 5"),
    "area": ("riverside", "city centre"),
    "family friendly": ("yes", "no"),
    "near": (),
}
"""Slots after the name, in the order in which they are written."""

Slots = tuple[tuple[str, str], ...]

# What can be said of a slot before the noun, and what prices and ratings are called.
_BEFORE = {
    ("price", "cheap"): ("cheap", "low - priced"),
    ("price", "moderate"): ("moderately priced",),
    ("price", "high"): ("expensive", "high - priced"),
    ("customer rating", "low"): ("low rated",),
    ("customer rating", "average"): ("average rated",),
    ("customer rating", "high"): ("highly rated",),
    ("customer rating", "1 out of 5"): ("1 star",),
    ("customer rating", "3 out of 5"): ("3 star",),
    ("customer rating", "5 out of 5"): ("5 star",),
    ("family friendly", "yes"): ("family friendly", "child friendly"),
}
_PRICES = {
    "cheap": ("low prices", "cheap prices"),
    "moderate": ("moderate prices", "average prices"),
    "high": ("high prices",),
}
_RATINGS = {
    "low": ("a low customer rating", "poor reviews"),
    "average": ("an average customer rating", "average reviews"),
    "high": ("a high customer rating", "very good reviews"),
}


def _food(value: str, dice: Dice) -> str:
    if value == "Fast food":
        return "fast food"
    return f"{value} {dice.pick(('food', 'food', 'dishes', 'meals'))}"


def _area(value: str, dice: Dice) -> str:
    if value == "riverside":
        return dice.pick(("by the riverside", "in the riverside area", "at the riverside"))
    return dice.pick(("in the city centre", "in the centre of the city", "in the city centre area"))


def _before(slot: str, value: str, dice: Dice) -> str:
    if slot == "food":
        return "fast food" if value == "Fast food" else value
    return dice.pick(_BEFORE.get((slot, value), ("",)))


def _after(slot: str, value: str, dice: Dice) -> str:
    """Words after the noun."""
    if slot == "food":
        return dice.pick(("serving", "that serves", "with", "offering")) + f" {_food(value, dice)}"
    if slot == "area":
        return dice.pick(("", "located ", "")) + _area(value, dice)
    if slot == "near":
        return dice.pick(("near {}", "located near {}", "close to {}", "not far from {}")).format(value)
    if slot == "price":
        return "with " + (dice.pick(_PRICES[value]) if value in _PRICES else f"prices of {value}")
    if slot == "customer rating":
        return "with " + (dice.pick(_RATINGS[value]) if value in _RATINGS else f"a customer rating of {value}")
    if value == "yes":
        return dice.pick(("where children are welcome", "that is family friendly", "for the whole family"))
    return dice.pick(("that is not family friendly", "for adults only", "where children are not welcome"))


def _alone(slot: str, value: str, it: str, dice: Dice) -> str:
    """A clause about one slot."""
    if slot == "Type":
        return f"{it} is a {value}"
    if slot == "food":
        food = _food(value, dice)
        return dice.pick(
            (f"{it} serves {food}", f"{it} offers {food}", f"the menu has {food}", f"{it} provides {food}")
        )
    if slot == "area":
        return dice.pick((f"{it} is {_area(value, dice)}", f"{it} is located {_area(value, dice)}",
                          f"you can find {it.lower() if it == 'It' else it} {_area(value, dice)}"))  # fmt: skip
    if slot == "near":
        return dice.pick((f"{it} is near {value}", f"{it} is located near {value}", f"{it} is close to {value}"))
    if slot == "price":
        if value in _PRICES:
            return dice.pick((f"{it} has {dice.pick(_PRICES[value])}", f"the price range is {value}"))
        return dice.pick((f"prices are {value}", f"the price range is {value}", f"meals cost {value}"))
    if slot == "customer rating":
        if value in _RATINGS:
            return f"{it} has {dice.pick(_RATINGS[value])}"
        return dice.pick((f"customers rate it {value}", f"{it} has a customer rating of {value}",
                          f"{it} is rated {value}"))  # fmt: skip
    if value == "yes":
        return dice.pick((f"{it} is family friendly", f"{it} is child friendly", "children are welcome"))
    return dice.pick((f"{it} is not family friendly", "children are not welcome", f"{it} is for adults only"))


def sentence(slots: Slots, dice: Dice) -> str:
    """One way to say all of a meaning representation."""
    values = dict(slots)
    name = values.pop("name")
    noun = values.pop("Type", "") or dice.pick(("place", "place", "venue"))
    rest = dice.sample(values, len(values))
    opening, middle = [], []
    for slot in list(rest):
        if len(opening) < 2 and dice.chance(0.45) and (words := _before(slot, values[slot], dice)):
            opening.append(words)
            rest.remove(slot)
    for slot in list(rest):
        if len(middle) < 2 and dice.chance(0.5):
            middle.append(_after(slot, values[slot], dice))
            rest.remove(slot)
    head = " ".join([*opening, noun])
    article = "an" if head[0] in "aeiouAEIOU" else "a"
    tail = " ".join(middle)
    place = next((slot for slot in rest if slot in ("area", "near")), None)
    if place and dice.chance(0.4):
        rest.remove(place)
        front = _area(values[place], dice) if place == "area" else f"near {values[place]}"
        told = dice.pick((f"{front} there is {article} {head} called {name} {tail}",
                          f"{front} , {name} is {article} {head} {tail}"))  # fmt: skip
    else:
        told = dice.pick((f"{name} is {article} {head} {tail}", f"{name} is {article} {head} {tail}",
                          f"there is {article} {head} called {name} {tail}"))  # fmt: skip
    if len(rest) == 1 and dice.chance(0.4):
        slot = rest.pop()
        told += f" and {_alone(slot, values[slot], 'it', dice)}"
    clauses = [told]
    while rest:
        slot = rest.pop(0)
        clause = _alone(slot, values[slot], "It", dice)
        if rest and dice.chance(0.6):
            other = rest.pop(0)
            clause += f" and {_alone(other, values[other], 'it', dice)}"
        clauses.append(clause)
    return " . ".join(_capital(" ".join(clause.split())) for clause in clauses) + " ."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def representation(dice: Dice, names: list[str]) -> Slots:
    """A name and two to seven of the other slots."""
    name, near = dice.sample(names, 2)
    kept = {*dice.sample(VALUES, 2 + dice.below(6))}
    return (("name", name), *((slot, near if slot == "near" else dice.pick(values))
                              for slot, values in VALUES.items() if slot in kept))  # fmt: skip


def generate(seed: int = 0) -> dict[str, list[tuple[Slots, str]]]:
    """Split -> (meaning representation, sentence) pairs, those of one together; no representation is in two splits."""
    shuffled = Dice("names", seed).sample(NAMES, len(NAMES))
    seen: set[Slots] = set()
    result: dict[str, list[tuple[Slots, str]]] = {}
    for split, (count, references) in SIZES.items():
        dice = Dice("restaurants", split, seed)
        names = shuffled[: round(SEEN * len(shuffled))] if split == "train" else shuffled
        pairs = result[split] = []
        while len(pairs) < count * references:
            slots = representation(dice, names)
            if slots not in seen:
                seen.add(slots)
                pairs += ((slots, sentence(slots, dice)) for _ in range(references))
    return result
