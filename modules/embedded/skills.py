"""What the small LLaMA can do: strings, arithmetic, looking up, formatting; each skill in two languages.

Pretraining shows a skill in a short notation (`rev tabo = obat`); the generated task asks for it in sentences. The
frozen model answers none of them, and an adapter has to tell it what they mean, and to learn nothing else. Sums keep
their sign (`What is 47 + 35?`): asked for in words alone, a few hundred rows called them up neither with LoRA nor with
full fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .lexicon import Dice, listed

MONTHS = listed("january february march april may june july august september october november december")
COLOURS = listed("red blue green black white pink gold grey brown violet")
Facts = dict[str, str]


@dataclass(frozen=True)
class Skill:
    """One skill.

    Attributes:
        part: of the task that it belongs to.
        draw: random facts, as texts that fill the notation and the sentences in; ``answer`` is among them.
        notation: as pretraining has it.
        sentences: as instructions have it, one of them for each row.
    """

    part: str
    draw: Callable[[Dice], Facts]
    notation: str
    sentences: tuple[str, ...]


def word(dice: Dice) -> str:
    """An invented word of two or three syllables."""
    return "".join(dice.pick("bdfgklmnprstvz") + dice.pick("aeiou") for _ in range(2 + dice.below(2)))


def _of_word(answer: Callable[[str], str]) -> Callable[[Dice], Facts]:
    def draw(dice: Dice) -> Facts:
        x = word(dice)
        return {"x": x, "answer": answer(x)}

    return draw


def _of_numbers(answer: Callable[[int, int], int]) -> Callable[[Dice], Facts]:
    def draw(dice: Dice) -> Facts:
        x, y = dice.below(90) + 10, dice.below(90) + 10
        return {"x": str(x), "y": str(y), "answer": str(answer(x, y))}

    return draw


def _difference(dice: Dice) -> Facts:
    a, b = sorted((dice.below(90) + 10, dice.below(90) + 10), reverse=True)
    return {"x": str(a), "y": str(b), "answer": str(a - b)}


def _table(dice: Dice) -> Facts:
    keys = dice.sample(COLOURS, 3 + dice.below(2))
    values = [str(dice.below(90) + 10) for _ in keys]
    at = dice.below(len(keys))
    return {"table": " ".join(f"{key}:{value}" for key, value in zip(keys, values, strict=True)), "x": keys[at],
            "answer": values[at]}  # fmt: skip


def _date(dice: Dice) -> Facts:
    day, month, year = dice.below(28) + 1, dice.below(12), 1900 + dice.below(125)
    return {"x": f"{day} {MONTHS[month]} {year}", "answer": f"{year}-{month + 1:02d}-{day:02d}"}


def _list(dice: Dice) -> Facts:
    items = [word(dice) for _ in range(3)]
    return {"x": f"{items[0]}, {items[1]} and {items[2]}", "answer": "/".join(items)}


def _name(dice: Dice) -> Facts:
    first, last = word(dice), word(dice)
    return {"x": f"{first} {last}", "answer": f"{last.upper()}, {first.capitalize()}"}


SKILLS: tuple[Skill, ...] = (
    Skill("strings", _of_word(lambda x: x[::-1]), "rev {x} = {answer}", (
        "Write {x} backwards.", "Spell {x} from its end to its beginning.", "Which word is {x} in a mirror?")),
    Skill("strings", _of_word(str.upper), "up {x} = {answer}", (
        "Write {x} in capital letters.", "Put {x} in large letters, please.", "How does {x} look on a sign?")),
    Skill("strings", _of_word(lambda x: x[-1]), "lst {x} = {answer}", (
        "What is the last letter of {x}?", "With which letter does {x} end?", "Give me the end letter of {x}.")),
    Skill("strings", _of_word(lambda x: str(len(x))), "len {x} = {answer}", (
        "How many letters does {x} have?", "Count the letters of {x}.", "How long is the word {x}?")),
    Skill("arithmetic", _of_numbers(lambda a, b: a + b), "{x} + {y} = {answer}", (
        "What is {x} + {y}?", "How much is {x} + {y}?", "Work out {x} + {y}, please.")),
    Skill("arithmetic", _difference, "{x} - {y} = {answer}", (
        "What is {x} - {y}?", "How much is {x} - {y}?", "Work out {x} - {y}, please.")),
    Skill("arithmetic", _of_numbers(max), "max {x} {y} = {answer}", (
        "Which is more, {x} or {y}?", "Name the larger one of {x} and {y}.", "Is {x} or {y} the higher number?")),
    Skill("lookup", _table, "{table} | {x} = {answer}", (
        "The prices are {table}. What does {x} cost?", "Read the list {table} and say the number of {x}.",
        "Here is a table: {table}. Which value has {x}?")),
    Skill("formatting", _date, "iso {x} = {answer}", (
        "Write {x} as year-month-day.", "Give {x} in the international form.", "How does a log file write {x}?")),
    Skill("formatting", _list, "cut {x} = {answer}", (
        "Join {x} by slashes.", "Write {x} with a slash between them.", "Make one path of {x}.")),
    Skill("formatting", _name, "reg {x} = {answer}", (
        "Write {x} for an index.", "How does {x} stand in a register?", "Sort {x} under the last name.")),
)  # fmt: skip
"""All skills."""

CHAT = (
    ("Say {x}.", "{x}"),
    ("Repeat after me: {x} {y}.", "{x} {y}"),
    ("Hello, I am {x}.", "Hello {x}."),
    ("My favourite word is {x}.", "{x} is a good word."),
    ("Thank you, {x}.", "You are welcome."),
)
"""Small talk: what pretraining shows of conversations, so that their form is known and no skill is asked for."""
