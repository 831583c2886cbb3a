"""Scores of instruction tuning: from 0 to 1 for a row, and the mean over the rows for a set.

A score of your own is a function of (answer, example) -> number, registered in any file:

    from modules.benchmarks.instruct.scores import score

    @score("short", "share of answers of at most ten words")
    def short(answer, example):
        return float(len(answer.split()) <= 10)

and named as ``--scores my_file.py:short``, or as ``--scores short`` where a package has an entry point of that name in
the group `ENTRY_POINTS`, whose value is the module.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points

from modules.benchmarks.instruct.rows.example import Example
from variants.errors import UserError
from variants.outside.places import located

ENTRY_POINTS = "lora_variants.scores"


@dataclass(frozen=True)
class Score:
    """A score.

    Attributes:
        name: in result files and tables: small letters, digits and _.
        words: what it is, for a reader of the table.
        needs: what a row must have for it: "answer", "options", or "".
        of_answer: the score of a generated answer.
        of_options: the number of the option that is chosen, given for each option the sum of the log-probabilities of
            its tokens and its length in characters; of scores that need no answer.
    """

    name: str
    words: str
    needs: str = ""
    of_answer: Callable[[str, Example], float] | None = None
    of_options: Callable[[Sequence[float], Sequence[int]], int] | None = None

    def value(self, answer: str, example: Example) -> float:
        """The score of a generated answer.

        Raises:
            UserError: a person's own gives none, in one line with its place.
        """
        try:
            found = float(self.of_answer(answer, example))
        except Exception as error:  # whatever the person's code does
            raise UserError(f"the score {self.name!r} fails on the answer {answer[:60]!r}: {located(error)}") from error
        if not math.isfinite(found):
            raise UserError(f"the score {self.name!r} gives {found} for the answer {answer[:60]!r}, and no number")
        return found

    def check(self, examples: Sequence[Example]) -> None:
        """Raise UserError where rows lack what the score needs, or where it fails on an answer that says nothing or
        what was to be said: before hours of training, and not behind them."""
        lacking = sum(not getattr(example, self.needs) for example in examples) if self.needs else 0
        if lacking:
            raise UserError(
                f"--scores {self.name}: {lacking:,} of {len(examples):,} rows that are scored have no {self.needs}: "
                "leave the score out, or give them some"
            )
        for answer in ("", examples[0].response) if self.of_answer and examples else ():
            self.value(answer, examples[0])


SCORES: dict[str, Score] = {}
"""By name."""


def add(own: Score) -> None:
    """Register a score. Raises UserError where its name is none, or taken."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", own.name) or own.name in SCORES:
        known = ", ".join(SCORES)
        raise UserError(
            f"score {own.name!r}: the name is taken or no name: small letters, digits and _, none of {known}"
        )
    SCORES[own.name] = own


def score(
    name: str, words: str, needs: str = ""
) -> Callable[[Callable[[str, Example], float]], Callable[[str, Example], float]]:
    """Decorator: register a score of generated answers; the arguments are fields of `Score`."""

    def register(function: Callable[[str, Example], float]) -> Callable[[str, Example], float]:
        add(Score(name, words, needs, of_answer=function))
        return function

    return register


def scores_named(words: Sequence[str]) -> list[Score]:
    """Scores by their names; of other files as `file.py:name`.

    Raises:
        UserError: there is none of that name.
    """
    from modules.benchmarks.instruct.scores import answers, options  # noqa: F401 (they register their scores)

    return [_named(word) for word in words]


def _named(word: str) -> Score:
    file, _, name = word.rpartition(":")
    if name not in SCORES:
        installed = [entry.value for entry in entry_points(group=ENTRY_POINTS) if entry.name == name]
        if where := file or next(iter(installed), ""):
            from variants.outside.files import load_module

            load_module(where, f"score {word!r}")
    if name not in SCORES:
        raise UserError(f"--scores: unknown score {name!r}; there are {', '.join(SCORES)}, or FILE.py:NAME")
    return SCORES[name]
