"""What a benchmark asks of a model: the losses of a batch, and the figures of an evaluation."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from variants.adapters.adapted_model import AdaptedModel
from variants.formats.native import TENSORS, read_adapter

Batch = dict[str, Tensor]
Losses = tuple[Tensor, Tensor, Any]
"""Losses (N,) in fp32, their weights (N,), and what `update` wants of the outputs."""

Samples = tuple[str, tuple[str, ...], list[tuple[Any, ...]]]
"""A table of outputs: (its name, its columns, its rows)."""


class Objective(nn.Module):
    """The interface. What is trained is sum(weights x losses); its mean over ranks is the mean over the global batch.

    Attributes:
        metric: the figure that picks the best epoch; higher is better.
        scores_frozen: a model of which nothing trains has a score that is worth knowing.
    """

    metric: str
    scores_frozen = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all metrics of an evaluation."""
        return (self.metric,)

    def losses(self, model: nn.Module, batch: Batch, training: bool) -> Losses:
        """Of one batch, as the data module makes it."""
        raise NotImplementedError

    def reset(self) -> None:
        """Before an evaluation."""

    def update(self, outputs: Any, batch: Batch, split: str) -> None:
        """Take in an evaluation batch."""

    def figures(self, module: LightningModule) -> dict[str, float]:
        """The figures of the evaluation over all processes; every process calls it. `metric` is among them or among
        those `of_loss`."""
        return {}

    def of_loss(self, loss: float) -> dict[str, float]:
        """What follows from the mean loss of the evaluation, over all processes."""
        return {}

    def test(self, module: LightningModule, adapted: AdaptedModel, folder: Any) -> dict[str, Any] | None:
        """Once, after training: the figures that the table prints, where they are not the dev set's."""
        return None

    def samples(self, folder: Path) -> Samples | None:
        """A few outputs of the run in ``folder``, to be looked at; None where its answers are classes or scores."""
        return None

    def pictures(self, folder: Path) -> dict[str, Path]:
        """Pictures that the last evaluation of the run in ``folder`` has left there, by their keys in dashboards."""
        return {}

    # ---- of S adapters that are trained at once: a batch holds the rows of each, one behind the other -------------

    def copies(self, size: int) -> list[Objective]:
        """One for each adapter, this one first."""
        return [self, *(copy.deepcopy(self) for _ in range(size - 1))]

    def sums(self, values: Tensor, batch: Batch, size: int) -> Tensor:
        """The sum of the values (N,) of each adapter's losses, (S,)."""
        return values.unflatten(0, (size, -1)).sum(1)

    def repeated(self, batch: Batch, size: int) -> Batch:
        """The same rows for each adapter."""
        return {name: torch.cat([rows] * size) for name, rows in batch.items()}

    def figures_of_each(self, module: LightningModule, each: Sequence[Objective]) -> list[dict[str, float]]:
        """The `figures` of each adapter's objective."""
        return [objective.figures(module) for objective in each]

    def test_each(
        self, module: LightningModule, restore: Callable[[int, Path], None] | None, folders: Sequence[Path]
    ) -> list[dict[str, Any] | None]:
        """As `test`, for each adapter.

        Args:
            restore: ``restore(i, folder)`` gives the i-th adapter the values that are kept there; None: nothing trains.
        """
        return [None] * len(folders)

    def bring_back(
        self, module: LightningModule, restore: Callable[[int, Path], None] | None, folders: Sequence[Path], which: str
    ) -> tuple[list[str], list[int]]:
        """Give each adapter what the first process has kept of an epoch.

        Args:
            restore: as in `test_each`.
            which: the epoch, "best" or "last".

        Returns:
            For each folder what tells its adapter's values from others, and its epoch; "frozen" and 0 where nothing
            trains.
        """
        module.trainer.strategy.barrier()  # the first process writes the adapter files
        states, epochs = ["frozen"] * len(folders), [0] * len(folders)
        for index, folder in enumerate(folders if restore else ()):
            file = folder / which
            states[index] = hashlib.sha256((file / TENSORS).read_bytes()).hexdigest()[:16]
            epochs[index] = read_adapter(file)[0]["epoch"]
            restore(index, file)
        return states, epochs
