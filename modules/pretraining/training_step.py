"""The training step of a language model: forward and backward pass, clipping and AdamW, with CUDA graphs on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from modules.paths import has_acceleration

Batch = dict[str, Tensor]
MAX_NORM = 1.0
"""Largest norm of the gradient."""


class TrainingStep:
    """``step(batch)`` is one step of AdamW with the gradient clipped to `MAX_NORM`.

    Args:
        compute: batch -> tensors, the first of which is the scalar loss.
        model: on its device; matrices have ``weight_decay``, vectors have none.
        reference: no CUDA graphs on a GPU either.
    """

    def __init__(
        self,
        compute: Callable[[Batch], tuple[Tensor, ...]],
        model: nn.Module,
        lr: float,
        weight_decay: float,
        reference: bool = False,
    ) -> None:
        self.parameters = list(model.parameters())
        matrices = [p for p in self.parameters if p.ndim > 1]
        vectors = [p for p in self.parameters if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        adam = {"lr": lr, "betas": (0.9, 0.98)}
        self._graphed = self.parameters[0].is_cuda and not reference and has_acceleration()
        if self._graphed:
            from modules.acceleration.cuda_graphs import GraphedAdamW, GraphedStep
            from variants.acceleration.activations import activations_of
            from variants.acceleration.basics.overrides import overriding

            self.optimizer = GraphedAdamW(groups, max_norm=MAX_NORM, **adam)
            fewer = list(activations_of(model))
            self._graphs = GraphedStep(overriding(fewer)(compute), self.parameters)
        else:
            self.optimizer = torch.optim.AdamW(groups, fused=True, **adam)
            self._compute = compute

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """The outputs of ``compute``, detached; valid until the next call."""
        if self._graphed:
            self._graphs.zero()
            outputs = self._graphs(batch)
        else:
            outputs = self._backward(batch)
            nn.utils.clip_grad_norm_(self.parameters, MAX_NORM)
        self.optimizer.step()
        return outputs

    def _backward(self, batch: Batch) -> tuple[Tensor, ...]:
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)  # a parameter without a gradient decays too, as in graphs
        outputs = self._compute(batch)
        outputs[0].backward()
        return tuple(output.detach() for output in outputs)
