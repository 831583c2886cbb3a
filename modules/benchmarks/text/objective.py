"""Classification and regression: the loss of a text task and its metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from modules.benchmarks.objective import Batch, Losses, Objective
from modules.benchmarks.text.metrics import TextMetrics
from modules.benchmarks.text.task import TextTask


class Classification(Objective):
    """Cross-entropy; squared error where the label is a score; where a row has any number of labels the mean over them
    of their binary cross-entropy. Scored are the dev splits, and after training the test set where there is one."""

    def __init__(self, task: TextTask) -> None:
        super().__init__()
        self.task, self.metric = task, task.column
        self.metrics = TextMetrics(task)

    @property
    def names(self) -> tuple[str, ...]:
        """The task's."""
        return self.task.metrics

    def losses(self, model: nn.Module, batch: Batch, training: bool) -> Losses:
        """A loss for each row; the outputs are the logits (B, C)."""
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "weight")}
        logits, labels = model(**inputs).logits.float(), batch["labels"]
        if self.task.kind == "score":
            losses = F.mse_loss(logits[:, 0], labels.float(), reduction="none")
        elif self.task.kind == "multi":
            losses = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").mean(-1)
        else:
            losses = F.cross_entropy(logits, labels, reduction="none")
        return losses, batch["weight"], logits

    def reset(self) -> None:
        """Forget the outputs of the last evaluation."""
        self.metrics.reset()

    def update(self, outputs: Tensor, batch: Batch, split: str) -> None:
        """Keep a batch's outputs: logits (B, C) with labels (B,) or (B, C) and weights (B,)."""
        splits = self.task.eval_splits
        number = splits.index(split) if split in splits else len(splits)  # the test set is no part of the dev set
        self.metrics.update(outputs, batch["labels"], batch["weight"], number)

    def figures(self, module: LightningModule) -> dict[str, float]:
        """The task's metrics over all processes, as fractions."""
        return {name: value.item() for name, value in self.metrics.compute().items()}

    def test(self, module: LightningModule, adapted: Any, folder: Path) -> dict[str, Any] | None:
        """The metrics of the test set with the best epoch's weights, that `epoch`, and the `loss`; None without one."""
        return self.test_each(module, module.restore if adapted.trained() else None, [folder])[0]

    def test_each(
        self, module: LightningModule, restore: Callable[[int, Path], None] | None, folders: Sequence[Path]
    ) -> list[dict[str, Any] | None]:
        """The figures of `test` for each stacked adapter; they are scored together."""
        trainer = module.trainer
        if "test" not in trainer.datamodule.splits:
            return [None] * len(folders)
        _, epochs = self.bring_back(module, restore, folders, "best")
        trainer.test(module, datamodule=trainer.datamodule, verbose=False)
        found = module.epoch_figures()
        every = found if isinstance(found, list) else [found]
        return [
            {"epoch": epoch} | {name: value for name, value in figures.items() if name != "train_loss"}
            for epoch, figures in zip(epochs, every, strict=True)
        ]
