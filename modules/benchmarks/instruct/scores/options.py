"""Scores of choice: the option to which the model gives the highest probability; nothing is generated."""

from __future__ import annotations

from collections.abc import Sequence

from modules.benchmarks.instruct.scores import Score, add


def likeliest(sums: Sequence[float], lengths: Sequence[int]) -> int:
    """The option whose tokens are the most probable together (`acc` of lm-evaluation-harness)."""
    return max(range(len(sums)), key=sums.__getitem__)


def likeliest_by_length(sums: Sequence[float], lengths: Sequence[int]) -> int:
    """The same by the mean over its characters (`acc_norm` of lm-evaluation-harness): long options are at no
    disadvantage."""
    return max(range(len(sums)), key=lambda k: sums[k] / max(1, lengths[k]))


add(Score("choice", "share of rows whose right option is the most probable", "options", of_options=likeliest))
add(
    Score(
        "choice_norm",
        "the same, with log-probabilities divided by the options' characters",
        "options",
        of_options=likeliest_by_length,
    )
)
