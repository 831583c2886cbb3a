"""The subject of a measured step: a model, its loss and its trained parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modules.efficiency.steps.backbones import Batch

TOTAL = 4000
"""Optimizer steps of the imagined training, for AdaLoRA's schedule."""
START = 500
"""The step of that training at which a measurement starts: AdaLoRA allocates at every step from here on."""


@dataclass
class Trainee:
    """A model that is ready to train.

    Attributes:
        core: batch -> loss; the part of `loss` that torch.compile gets, and that `loss` calls as ``trainee.core``.
        parameters: all trained parameters.
        feed: changes a batch before ``core``.
        extra: a penalty that is added to the loss.
        before: called with the number of each optimizer step, when its gradients are ready.
        after: called with the number of each optimizer step, while its gradients are there.
        autocast: ``core`` runs under autocast to bf16.
        clip: in place of ``clip_grad_norm_``, called in the same way.
        handle: of the adapter: ours or PEFT's model.
        kind: of the batches that it reads (`batches.picked`).
    """

    core: Callable[[Batch], Tensor]
    parameters: list[nn.Parameter]
    feed: Callable[[Batch], Batch] | None = None
    extra: Callable[[], Tensor | None] | None = None
    before: Callable[[int], None] | None = None
    after: Callable[[int], None] | None = None
    autocast: bool = False
    clip: Callable[[list[nn.Parameter], float], Any] | None = None
    handle: Any = None
    kind: str = ""

    def loss(self, batch: Batch) -> Tensor:
        """The scalar to differentiate."""
        batch = self.feed(batch) if self.feed else batch
        if self.autocast:
            device = next(iter(batch.values())).device.type
            with torch.autocast(device, torch.bfloat16, cache_enabled=False):  # a cached cast would outlive its graph
                loss = self.core(batch)
        else:
            loss = self.core(batch)
        extra = self.extra() if self.extra else None
        return loss if extra is None else loss + extra
