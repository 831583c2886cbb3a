"""The rows of a text task as batches."""

from __future__ import annotations

from modules.benchmarks.text.task import TextTask
from modules.data.module import PaddedDataModule
from modules.data.tokens import Tokens


class TextDataModule(PaddedDataModule):
    """The loaders of one task: "train", the dev splits and the test set as far as they exist, one loss per row."""

    def __init__(self, task: TextTask, splits: dict[str, Tokens], pad_id: int, **options):
        super().__init__(splits, task.eval_splits, pad_id, **options)
        self.task = task
