"""Scores of instruction tuning: from 0 to 1 for a row, and the mean over the rows for a set.

A score of your own is a function of (answer, example) -> number, registered in any file:

    from modules.benchmarks.instruct.scores import score

    @score("short", "share of answers of at most ten words")
    def short(answer, example):
        return float(len(answer.split()) <= 10)

and named as ``--scores my_file.py:short``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modules.benchmarks.instruct.rows.example import Example
from variants.errors import UserError


@dataclass(frozen=True)
class Score:
    """A score.

    Attributes:
        name: in result files and tables.
        words: what it is, for a reader of the table.
        of_answer: the score of a generated answer.
        of_options: the number of the option that is chosen, given for each option the sum of the log-probabilities of
            its tokens and its length in characters; of scores that need no answer.
    """

    name: str
    words: str
    of_answer: Callable[[str, Example], float] | None = None
    of_options: Callable[[Sequence[float], Sequence[int]], int] | None = None


SCORES: dict[str, Score] = {}
"""By name."""


def score(name: str, words: str) -> Callable[[Callable[[str, Example], float]], Callable[[str, Example], float]]:
    """Decorator: register a score of generated answers."""

    def register(function: Callable[[str, Example], float]) -> Callable[[str, Example], float]:
        SCORES[name] = Score(name, words, of_answer=function)
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
    if file:
        from variants.outside.files import load_module

        load_module(file, f"score {word!r}")
    if name not in SCORES:
        raise UserError(f"--scores: unknown score {name!r}; there are {', '.join(SCORES)}, or FILE.py:NAME")
    return SCORES[name]
