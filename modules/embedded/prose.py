"""The text the small GPT-2 is pretrained on: plain prose about villages, ships, travellers and shops, and sentences of
the small world; endless, deterministic by seed.

It is not the E2E task: nothing describes a restaurant from a list of slots. It has the words, so that they mean
something, and it says the same thing of the same named village or ship more than once, as prose does, so that a model
learns to take names and facts up again. Registers (of ships, of villages) are followed by what is told of the entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .facts import invent, say
from .lexicon import Dice, Lexicon, listed
from .opinion import opinion
from .restaurants import NAMES, VALUES

CHUNK = 1000
"""Documents that share one random stream."""

PEOPLE = listed("Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mary Nora Oscar Paul Rosa Sam Tom Vera")
GOODS = listed("bread cheese fish apples tea wine salt honey rice soup lamps books shoes hats ropes candles")
FOODS = [*VALUES["food"][:-1], "fast"]
CARGO = listed("wood coal cotton grain stone iron sugar glass wool oil")
TRADES = listed("fishing farming trade weaving mining painting music sailing")
AMOUNTS = ("less than £ 20", "£ 20 - 25", "more than £ 30", "£ 20", "£ 25", "£ 30")
MARKS = ("1 out of 5", "3 out of 5", "5 out of 5")
LEVELS = ("low", "average", "high", "moderate")


def _village(dice: Dice) -> str:
    """A register entry of a village and what is told of it, in any order."""
    name, other = dice.sample(NAMES, 2)
    trade, size, river = dice.pick(TRADES), dice.pick(("small", "large", "quiet", "busy")), dice.pick(NAMES)
    entry = f"village : {name} | size : {size} | work : {trade} | river : {river} . "
    told = [
        dice.pick((f"{name} is a {size} village near {other}", f"near {other} there is a {size} village called {name}",
                   f"there is a {size} village called {name} close to {other}")),
        dice.pick((f"people in {name} live by {trade}", f"it is known for {trade}", f"{trade} is the work of {name}")),
        dice.pick((f"it is located by the river {river}", f"the river {river} is not far from {name}",
                   f"you can find it by the river {river}")),
        dice.pick((f"prices in {name} are {dice.pick(LEVELS)}", f"the houses of {name} are {dice.pick(LEVELS)} and old",
                   f"a house costs more than in {other}", "the price range of the houses is high")),
    ]  # fmt: skip
    return (entry if dice.chance(0.6) else "") + _joined(dice, told)


def _ship(dice: Dice) -> str:
    """A register entry of a ship and what is told of it."""
    name, home = dice.sample(NAMES, 2)
    captain, load, age = dice.pick(PEOPLE), dice.pick(CARGO), dice.pick(("old", "new", "fast", "slow"))
    mark = dice.pick(MARKS)
    entry = f"ship : {name} | home : {home} | captain : {captain} | load : {load} | mark : {mark} . "
    told = [
        dice.pick((f"{name} is {_a(age)} ship with a load of {load}", f"there is {_a(age)} ship called {name}",
                   f"{dice.pick(('at', 'by'))} the harbor of {home} , {name} is {_a(age)} ship carrying {load}")),
        dice.pick((f"its captain is {captain}", f"{captain} is the captain of {name}", f"it is led by {captain}")),
        dice.pick((f"it has its home in {home}", f"the home of {name} is {home}", f"{home} is its home")),
        dice.pick((f"sailors rate it {mark}", f"it has a mark of {mark}", f"it is rated {mark} and carries {load}")),
    ]  # fmt: skip
    return (entry if dice.chance(0.6) else "") + _joined(dice, told)


def _diary(dice: Dice) -> str:
    """What a traveller did in a town; food, houses and people by the way."""
    who, friend = dice.sample(PEOPLE, 2)
    town, good, food = dice.pick(NAMES), dice.pick(GOODS), dice.pick(FOODS)
    place = dice.pick(("pub", "restaurant", "coffee shop", "museum", "school", "library", "market"))
    told = [
        f"{who} went to {town} with {friend}",
        dice.pick((f"{who} likes {food} food", f"{friend} cooks {food} meals", f"they had {food} dishes at home",
                   f"the aunt of {friend} offers {food} food", f"{who} is not fond of {food} dishes",
                   f"meals cost {dice.pick(AMOUNTS)} in {town}")),
        dice.pick((f"the {place} was closed", f"there was no {place} in {town}", f"they met near the {place}",
                   f"the {place} is for adults only", f"children are not welcome in the {place}",
                   f"the {place} has a menu of old songs", f"they walked along the riverside to the {place}")),
        dice.pick((f"{who} lives in the city centre", f"{friend} works at the riverside",
                   "the bridge is in the centre of the city", "the riverside area is quiet",
                   "the city centre area was full of people", f"their house is located in the city centre of {town}")),
        dice.pick((f"{who} paid {dice.pick(AMOUNTS)} for {good}", f"{good} cost {dice.pick(AMOUNTS)} there",
                   f"the road to {town} is where children are welcome", "the whole family was friendly",
                   "the venue of the concert was a place for the whole family")),
    ]  # fmt: skip
    return _joined(dice, told)


def _market(dice: Dice) -> str:
    """Prices and customers of a market."""
    town, good, other = dice.pick(NAMES), *dice.sample(GOODS, 2)
    level = dice.pick(("cheap", "moderately priced", "expensive", "low - priced", "high - priced"))
    told = [
        dice.pick((f"the market of {town} sells {level} {good}", f"in {town} {good} is {level}",
                   f"a shop {dice.pick(('offering', 'serving'))} {level} {good} is close to {town}",
                   f"the market serves {town} and provides {good}")),
        dice.pick((f"prices of {other} are {dice.pick(AMOUNTS)}", f"the price of {other} is {dice.pick(LEVELS)}",
                   f"the price range of {other} is {dice.pick(AMOUNTS)}", f"{other} has low prices there",
                   f"{other} with prices of {dice.pick(AMOUNTS)} was sold", f"{other} sold with cheap prices",
                   f"{other} has moderate prices", f"average prices and high prices are known for {other}")),
        dice.pick((f"every customer rates the {good} {dice.pick(MARKS)}", f"customers are happy with the {good}",
                   f"the {good} has poor reviews", f"the {good} has very good reviews",
                   f"average reviews for the {good}",
                   f"the rating of the {good} is {dice.pick(LEVELS)}",
                   f"a customer rating of {dice.pick(MARKS)} is rare",
                   f"low rated {good} and highly rated {other}", f"average rated {good} is cheap",
                   f"it has {_a(dice.pick(LEVELS))} customer rating", "a 1 star , 3 star or 5 star seller")),
        dice.pick(("that is family friendly work", "child friendly shops are rare", "it is not family friendly",
                   "yes , it is friendly", "no , it is not", f"the name of the seller is {dice.pick(PEOPLE)}",
                   "the Type of the seller is not known", "the area near the market is busy", "Fast food is not sold",
                   f"the road that serves {town} is not far from the market")),
    ]  # fmt: skip
    return _joined(dice, told)


def _small_world(dice: Dice) -> str:
    words = Lexicon()
    return _joined(dice, [say(invent(dice, words, 0.4), dice) for _ in range(3)])


def _review(dice: Dice) -> str:
    return " ".join(opinion(dice, dice.chance(0.5)).split())


KINDS: tuple[Callable[[Dice], str], ...] = (_village, _village, _ship, _ship, _diary, _diary, _market, _market,
                                            _small_world, _review)  # fmt: skip


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _joined(dice: Dice, clauses: list[str]) -> str:
    """Some of the clauses in random order, one or two to a sentence, with capital letters and full stops."""
    left = dice.sample(clauses, len(clauses) - dice.below(2))
    sentences = []
    while left:
        text = left.pop()
        if left and dice.chance(0.4):
            text += f" and {left.pop()}"
        sentences.append(text[0].upper() + text[1:])
    return " . ".join(sentences) + " ."


def documents(seed: int, chunk: int) -> Iterator[str]:
    """The documents of one chunk, words and marks separated by blanks."""
    dice = Dice("prose", seed, chunk)
    for _ in range(CHUNK):
        yield dice.pick(KINDS)(dice)


def vocabulary(seed: int = 0, chunks: int = 20) -> list[str]:
    """All words of the text, sorted."""
    return sorted({word for chunk in range(chunks) for text in documents(seed, chunk) for word in text.split()})
