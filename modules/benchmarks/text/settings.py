"""The training settings of text classification and regression."""

from __future__ import annotations

from dataclasses import dataclass

from modules.benchmarks.settings import TrainingSettings, setting


@dataclass(frozen=True, kw_only=True)
class TextSettings(TrainingSettings):
    """Beside the common ones: the task head's."""

    head_lr: float | None = setting("learning rate of the task head (default: lr)", None, most=1000)
    cls_dropout: float | None = setting(
        "dropout before the classifier (default: the backbone's)", None, zero=True, most=0.999
    )
