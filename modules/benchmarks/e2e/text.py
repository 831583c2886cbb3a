"""The two forms in which E2E is published, and how a meaning representation is written as text.

The challenge's CSV files have `name[Blue Spice], priceRange[less than £20]` and untokenised sentences; the text files
of the LoRA authors (microsoft/LoRA, examples/NLG/data/e2e) have `name : Blue Spice | price : less than £ 20||` and
sentences with blanks between tokens. The authors' form is the one that the project works with: what it trains on is
the same, whichever form it was read from.

Their tokeniser is not published. `spaced` was fitted to the published pairs of files: it gives every line of the
development and test files and, together with the fragments of `odd_spacing.tsv`, of the training file.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

SLOTS = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}
"""The challenge's slot names -> the authors'; the others are the same in both."""

Slots = tuple[tuple[str, str], ...]
"""(name, value) pairs of one meaning representation, in their order; names and values as the authors write them."""

_SLOT = r"([^\[\],]+)\[([^\[\]]*)\]"
_CLITIC = r"(?<=\w)'(?:s|t|re|ll|ve|d|m|S|T|RE|VE|LL|M|D)\b"
_NUMBER = r"\d+(?:[.,:]\d+)+"
_REST = r"(?<![\w.])\.\w+|\w+|\.+|-+|[^\w\s]"
# Training and development files were tokenised in one way, the test file in another ("isn 't" there, "is n't" here).
_TRAIN = re.compile(
    # "5. it": no split between a number of its own and a small letter; at the very end other marks stay on a number too
    rf"St\.(?=\s)|L\.$|\d+[,']$|(?:(?<=\s)|(?<=\s\d\d-))\d+\.(?=\s+[a-z])|(?<=\w)\.'$|{_CLITIC}|'[sd]\b|^'\w+|'oeuvres?"
    rf"|{_NUMBER}(?:-(?=£))?|(?<=\w)-(?=\w)|\w+-(?=£|\s|$)|(?<!\w)-\w+|{_REST}"
)
_TEST = re.compile(
    rf"hors d'oeuvre|that(?=s\b)|\w+(?=n't)|n't|{_CLITIC}|{_NUMBER}|\w+£-?\d+(?:-£\d+)?"
    rf"|(?<=[^\W\d_])-(?=[^\W\d_])|(?<=\d)-(?=\d)|\w+-£\w+|\w*\d-[^\W\d_]\w*|\w+-(?=\s|$)|(?<!\w)-£?\w+|{_REST}"
)


def spaced(text: str, split: str) -> str:
    """A sentence of the CSV file of a split ("train", "validation", "test") as the authors' files have it."""
    if split == "test":
        return " ".join(_TEST.findall(text))
    text = " ".join(_TRAIN.findall(text))
    if split == "train":
        for ours, theirs in _odd():
            if ours in text:
                text = text.replace(ours, theirs)
    return text


@functools.lru_cache
def _odd() -> list[tuple[str, str]]:
    """Fragments of training sentences that no rule explains: (by the rules, in the authors' file)."""
    lines = Path(__file__).with_name("odd_spacing.tsv").read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("\t")) for line in lines]


def read_csv_mr(text: str) -> Slots:
    """`name[X], eatType[pub]` -> slots. Raises ValueError where it is not of that form."""
    if not re.fullmatch(rf"{_SLOT}(?:, *{_SLOT})*", text.strip()):
        raise ValueError(f"expected slots such as name[X], eatType[pub], found {text!r}")
    pairs = re.findall(_SLOT, text)
    return tuple((SLOTS.get(name.strip(), name.strip()), spaced(value, "validation")) for name, value in pairs)


def read_authors_mr(text: str) -> Slots:
    """`name : X | Type : pub` -> slots. Raises ValueError where it is not of that form."""
    slots = tuple(tuple(part.split(" : ", 1)) for part in text.strip().split(" | "))
    if any(len(slot) != 2 for slot in slots):
        raise ValueError(f"expected slots such as name : X | Type : pub, found {text!r}")
    return slots


# ---- how a meaning representation is given to the model ---------------------------------------------------------


def _authors(slots: Slots) -> str:
    return " | ".join(f"{name} : {value}" for name, value in slots)


def _challenge(slots: Slots) -> str:
    names = {ours: theirs for theirs, ours in SLOTS.items()}
    return ", ".join(f"{names.get(name, name)}[{value}]" for name, value in slots)


def _words(slots: Slots) -> str:
    return ". ".join(f"{name} is {value}" for name, value in slots) + "."


LINEARISATIONS = {"authors": _authors, "challenge": _challenge, "words": _words}
"""Name -> function from slots to text: the LoRA authors' (`name : X | Type : pub`), the challenge's own
(`name[X], eatType[pub]`), plain words (`name is X. Type is pub.`)."""
