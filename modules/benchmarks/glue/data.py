"""The rows of a GLUE task as batches."""

from __future__ import annotations

from modules.benchmarks.glue.tasks import GlueTask
from modules.data.module import PaddedDataModule
from modules.data.tokens import Tokens


class GlueDataModule(PaddedDataModule):
    """The loaders of one task: "train" and the dev splits that exist, one loss per row."""

    def __init__(self, task: GlueTask, splits: dict[str, Tokens], pad_id: int, **options):
        super().__init__(splits, task.eval_splits, pad_id, **options)
        self.task = task
