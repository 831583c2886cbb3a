"""Classification and regression: the loss of a GLUE task and its metrics."""

from __future__ import annotations

import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from modules.benchmarks.glue.metrics import glue_metrics
from modules.benchmarks.glue.tasks import GlueTask
from modules.benchmarks.objective import Batch, Losses, Objective


class Classification(Objective):
    """Cross-entropy, or squared error where the label is a score; the task's metrics over its dev splits."""

    def __init__(self, task: GlueTask) -> None:
        super().__init__()
        self.task, self.metric = task, task.column
        self.metrics = glue_metrics(task)

    def losses(self, model: nn.Module, batch: Batch, training: bool) -> Losses:
        """A loss for each row; the outputs are the logits (B, C)."""
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "weight")}
        logits = model(**inputs).logits.float()
        if self.task.is_regression:
            losses = F.mse_loss(logits[:, 0], batch["labels"].float(), reduction="none")
        else:
            losses = F.cross_entropy(logits, batch["labels"], reduction="none")
        return losses, batch["weight"], logits

    def reset(self) -> None:
        """Forget the predictions of the last evaluation."""
        self.metrics.reset()

    def update(self, outputs: Tensor, batch: Batch, split: str) -> None:
        """Keep a batch's predictions: logits (B, C) with labels and weights (B,)."""
        self.metrics.update(outputs, batch["labels"], batch["weight"], self.task.eval_splits.index(split))

    def figures(self, module: LightningModule) -> dict[str, float]:
        """The task's metrics over all processes, as fractions."""
        return {name: value.item() for name, value in self.metrics.compute().items()}
