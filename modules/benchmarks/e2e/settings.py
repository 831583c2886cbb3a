"""The training settings of E2E NLG, and how its test set is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from modules.benchmarks.e2e.text import LINEARISATIONS
from modules.benchmarks.settings import TrainingSettings, setting


@dataclass(frozen=True, kw_only=True)
class E2ESettings(TrainingSettings):
    """Beside the common ones: loss, form of the input, beam search.

    `no_repeat_ngram` and `max_new_tokens` count for the dev set's greedy outputs too, which choose the best epoch.
    """

    label_smoothing: float = setting(
        "share of the target spread over the vocabulary, in training", 0.0, zero=True, most=1
    )
    model_dropout: float | None = setting("dropout inside the backbone (default: its own)", None, zero=True, most=0.999)
    linearisation: str = setting("how meaning representations are written", "authors", choices=LINEARISATIONS)
    beams: int = setting("beams on the test set; 1 is greedy", 10, most=1000, after_training=True)
    length_penalty: float = setting(
        "a hypothesis' log-probability is divided by length ** this", 1.0, zero=True, most=100, after_training=True
    )
    no_repeat_ngram: int = setting("no output has an n-gram of this size twice; 0 allows it", 0, zero=True, most=1e6)
    max_new_tokens: int = setting("longest output, in tokens", 64, most=1e6)
    decode_batch_size: int = setting(
        "meaning representations decoded at once, on each device, or as many as fit", 16, most=1e6, after_training=True
    )
    score_epoch: str = setting(
        "the epoch scored on the test: best on the dev set, last, or none",
        "best",
        choices=("best", "last", "none"),
        after_training=True,
    )


SEARCH = ("beams", "length_penalty", "no_repeat_ngram", "max_new_tokens", "decode_batch_size")
"""The settings of the search for outputs; they may change after training."""
