"""Optimizer steps of a pretraining: AdamW on gradients of norm 1 at most; on a GPU as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from modules.paths import has_acceleration

MAX_NORM = 1.0
"""Of all gradients together."""
Batch = dict[str, Tensor]


class Steps:
    """``steps(batch)`` is one optimizer step.

    Without `modules.acceleration` every step is eager, and the results are the same.

    Args:
        model: on its device; all of it trains.
        compute: batch -> tensors, the first of which is the loss to differentiate.
        weight_decay: of matrices; biases and norms have none.
        options: of AdamW.

    Attributes:
        optimizer: for schedules and checkpoints.
    """

    def __init__(
        self, model: nn.Module, compute: Callable[[Batch], tuple[Tensor, ...]], weight_decay: float, **options: Any
    ) -> None:
        self.parameters, self.compute = list(model.parameters()), compute
        decay = [p for p in self.parameters if p.ndim > 1]
        rest = [p for p in self.parameters if p.ndim < 2]
        groups = [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
        self._graphed, self._clips = None, False
        self.optimizer: torch.optim.Optimizer
        if has_acceleration():
            from modules.acceleration.cuda_graphs import GraphedAdamW, GraphedStep

            self._graphed = GraphedStep(compute, self.parameters)
            if self.parameters[0].is_cuda:
                self.optimizer, self._clips = GraphedAdamW(groups, max_norm=MAX_NORM, **options), True
        if not self._clips:
            self.optimizer = torch.optim.AdamW(groups, fused=True, **options)

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """The outputs of ``compute`` before the step, detached; valid until the next call."""
        if self._graphed:
            self._graphed.zero()
            outputs = self._graphed(batch)
        else:
            self.optimizer.zero_grad()
            device = self.parameters[0].device
            outputs = self.compute({name: tensor.to(device) for name, tensor in batch.items()})
            outputs[0].backward()
            outputs = tuple(output.detach() for output in outputs)
        if not self._clips:
            nn.utils.clip_grad_norm_(self.parameters, MAX_NORM)
        self.optimizer.step()
        return outputs
