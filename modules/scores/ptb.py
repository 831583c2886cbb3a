"""Penn Treebank tokens as Stanford's PTBTokenizer (CoreNLP 3.4.1) gives them, without Java.

The COCO caption tools run that program with `-preserveLines -lowerCase` over all captions as one text, and then drop
the tokens of `PUNCTUATION`. `captions` does the same, with Stanford's program where it is installed and with `tokenize`
elsewhere; the tests compare the two on the E2E sets and on odd inputs.

A tokeniser of this kind is a list of patterns: at each place the longest match wins, and of two equally long ones
the earlier pattern. A pattern may look ahead; the characters that it looks at count for the length, but are read again.
Because it may look over a line's end, lines are read as one text (a line's last "U.S." ends a sentence if the next line
begins with "The").

It takes time in proportion to the text, however long a line is: a pattern that looks far is not tried where the text
lacks what it `Needs`.

Known differences from the Java program: tags of more than 2,000 characters, scripts whose letters came to Unicode after
version 6.1, and vowel signs of Indic scripts, which it partly takes for untokenisable.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from modules.scores import java
from modules.scores.ptb_patterns import PLAIN, RULES, Needs

PUNCTUATION = {"''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
"""Tokens that the COCO tools drop. Brackets stay: by then they are "-lrb-" in lower case."""


def captions(lines: Sequence[str], program: bool = True) -> list[str]:
    """Each line as tokens in lower case without punctuation, separated by spaces.

    Args:
        program: by Stanford's program, where it is installed. To start it takes longer than to read a few lines.
    """
    lines = [" ".join(line.splitlines()) for line in lines]
    tokenized = java.stanford(lines) if program else None
    if tokenized is None:
        tokenized = tokenize(lines)
    return [" ".join(token for token in line.rstrip().split(" ") if token not in PUNCTUATION) for line in tokenized]


def in_use() -> str:
    """The tokeniser that `captions` uses on this machine: "stanford" or "own"."""
    return "own" if java.stanford([""]) is None else "stanford"


def tokenize(lines: Sequence[str]) -> list[str]:
    """Each line (without a line break) as tokens in lower case, separated by spaces."""
    text = "\n".join(lines)
    needs = {number: _Needs(rule.needs, text) for number, rule in enumerate(RULES) if rule.needs}
    tokenized: list[list[str]] = [[]]
    place = 0
    while place < len(text):
        if plain := PLAIN.match(text, place):
            tokenized[-1].append(plain[0])
            place = plain.end()
            continue
        match, becomes = None, None
        for number, rule in enumerate(RULES):
            if number in needs and not needs[number].met(place):
                continue
            found = rule.pattern.match(text, place)
            if found and (match is None or found.end() > match.end()):
                match, becomes = found, rule.becomes
        if match is None:
            if text[place] == "\n":
                tokenized.append([])
            place += 1  # a space, or a character that no pattern knows: left out
            continue
        end = match.end("token")
        tokenized[-1] += becomes(text[place:end])
        place = end
    return [" ".join(tokens).lower() for tokens in tokenized]


class _Needs:
    """Whether a text has what a pattern needs, asked for one place after the other: each is looked for only once."""

    def __init__(self, needs: Needs, text: str) -> None:
        self.goal, self.stop = _Next(needs.goal, text), _Next(needs.stop, text)

    def met(self, place: int) -> bool:
        """Whether a match may begin at `place`."""
        return self.goal.after(place) < self.stop.after(place)


class _Next:
    """The next match of a pattern in a text, from places that only grow."""

    def __init__(self, pattern: str, text: str) -> None:
        self.found = re.finditer(pattern, text)
        self.start = -1.0

    def after(self, place: int) -> float:
        """Where the next match beyond `place` begins; infinity where there is none."""
        while self.start <= place:
            match = next(self.found, None)
            self.start = match.start() if match else math.inf
        return self.start
