"""The training settings of instruction tuning, and how answers are made."""

from __future__ import annotations

from dataclasses import dataclass

from modules.benchmarks.instruct.rows.chat import TEMPLATES
from modules.benchmarks.settings import TrainingSettings, setting


@dataclass(frozen=True, kw_only=True)
class InstructSettings(TrainingSettings):
    """Beside the common ones: what the loss is on, the prompt, and what is scored how."""

    loss_on: str = setting(
        "the tokens that are trained on: responses, or all", "responses", choices=("responses", "all")
    )
    template: str | None = setting(
        "chat template around instructions (default: the tokenizer's; alpaca where it has none)",
        None,
        choices=TEMPLATES,
    )
    scores: str | None = setting(
        "comma list of what is scored after training (default: the task's; of your own data none)", None
    )
    train_embeddings: str | None = setting(
        "comma list of new tokens, such as <think>,</think>: the vocabulary grows by them, and their embeddings alone "
        "train with the adapter",
        None,
    )
    beams: int = setting("beams of the search for answers; 1 is greedy", 1, most=1000, after_training=True)
    max_new_tokens: int = setting("longest answer, in tokens", 128, most=1e6, after_training=True)
    decode_batch_size: int = setting(
        "answers made at once, on each device, or as many as fit", 32, most=1e6, after_training=True
    )
    score_epoch: str = setting(
        "the epoch that is scored: best on the dev set, last, or none",
        "best",
        choices=("best", "last", "none"),
        after_training=True,
    )
    model_dropout: float | None = setting("dropout inside the backbone (default: its own)", None, zero=True, most=0.999)
