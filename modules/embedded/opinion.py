"""Opinions about films, books and meals (SST-2's question): who likes it decides structure, not words.

Denials turn a word around, "but" lets the last clause win and "although" the other one, what others say or what
was hoped for does not count.
"""

from __future__ import annotations

from .lexicon import Dice, leading, listed

GOOD = listed("""wonderful brilliant charming delightful superb touching funny clever fresh moving gripping elegant
lovely enjoyable splendid witty thrilling inspired memorable graceful""")
BAD = listed("""terrible boring awful dull clumsy tedious bland stale silly annoying shallow weak messy dreadful ugly
tiresome painful pointless forgettable lifeless""")
WORKS = listed("film movie book novel play show album song meal concert story series")
ASPECTS = listed("plot cast music acting script dialogue ending pace style humor")
VERY = ("", "", "", "very", "really", "truly", "quite", "so")
DENY = ("not", "not", "never", "hardly", "far from", "anything but", "by no means")
PRAISE = ("i loved", "i enjoyed", "i admired", "i liked")
BLAME = ("i hated", "i disliked", "i regretted", "i despised")


def clause(dice: Dice, good: bool, part: float = 1.0, denials: float = 0.45) -> str:
    """A simple clause of the given polarity, some of them by denying the opposite."""
    subject = f"the {dice.pick(WORKS + ASPECTS)}"
    deny = dice.chance(denials)
    adj = dice.pick(leading(GOOD if good != deny else BAD, part))
    if deny:
        return dice.pick((
            f"{subject} was {dice.pick(DENY)} {adj}",
            f"{subject} did not seem {dice.pick(VERY)} {adj}",
            f"there was nothing {adj} about {subject}",
            f"nobody could call {subject} {adj}",
            f"i would not say that {subject} is {adj}",
        ))  # fmt: skip
    return dice.pick((
        f"{subject} was {dice.pick(VERY)} {adj}",
        f"{subject} was {dice.pick(VERY)} {adj}",
        f"{dice.pick(PRAISE if good else BLAME)} {subject}",
        f"i found {subject} {adj}",
        f"it is hard to deny that {subject} is {adj}",
    ))  # fmt: skip


def opinion(dice: Dice, good: bool, part: float = 1.0, denials: float = 0.45) -> str:
    """An opinion of the given polarity, words separated by blanks. `part`: the leading share of adjectives in use."""
    mine, against = clause(dice, good, part, denials), clause(dice, not good, part, denials)
    form = dice.below(9)
    adj, wrong = dice.pick(leading(GOOD if good else BAD, part)), dice.pick(leading(BAD if good else GOOD, part))
    work = dice.pick(WORKS)
    return [
        f"{mine} .",
        f"{against} , {dice.pick(('but', 'yet', 'still'))} in the end {mine} .",
        f"{against} , but {mine} .",
        f"{dice.pick(('although', 'even though', 'while'))} {against} , {mine} .",
        f"{mine} , {dice.pick(('although', 'even though', 'while'))} {against} .",
        f"the critics {dice.pick(('called it', 'found it'))} {wrong} , but {mine} .",
        f"we expected {'an' if wrong[0] in 'aeiou' else 'a'} {wrong} {work} , and instead it was {adj} .",
        f"{mine} , whatever the {wrong} reviews say .",
        f"those who say that {against} are wrong .",
    ][form]  # fmt: skip


def hearsay(dice: Dice, who: str, part: float = 1.0) -> str:
    """What somebody else thinks, good or bad: it says nothing about what the writer does."""
    work = dice.pick(WORKS)
    verb = dice.pick(PRAISE + BLAME).removeprefix("i ")
    adj = dice.pick(leading(GOOD, part) + leading(BAD, part))
    return f"{who} {verb} the {work}" if dice.chance(0.5) else f"{who} found the {work} {adj}"
