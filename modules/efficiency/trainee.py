"""What a step is measured of: a model, its loss and what trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modules.efficiency.shapes import Batch

TOTAL = 4000  # optimizer steps of the job that is imagined, and the step that the measurement starts at: AdaLoRA
START = 500  # allocates at every step in between


@dataclass
class Trainee:
    """A model that is ready to train.

    Attributes:
        loss: batch -> scalar to differentiate.
        core: the part of ``loss`` that is worth compiling, batch -> loss; ``loss`` calls it as ``trainee.core``.
        parameters: all that trains.
        after: called with the number of each optimizer step, its gradients still there.
        clip: gradients' own way of being clipped, as ``clip_grad_norm_`` is called.
        handle: the adapter's.
        kind: of the batches that it reads (`shapes.picked`).
    """

    core: Callable[[Batch], Tensor]
    parameters: list[nn.Parameter]
    feed: Callable[[Batch], Batch] | None = None
    extra: Callable[[], Tensor | None] | None = None
    after: Callable[[int], None] | None = None
    autocast: bool = False
    clip: Callable[[list[nn.Parameter], float], Any] | None = None
    handle: Any = None
    kind: str = ""

    def loss(self, batch: Batch) -> Tensor:
        batch = self.feed(batch) if self.feed else batch
        if self.autocast:
            device = next(iter(batch.values())).device.type
            with torch.autocast(device, torch.bfloat16, cache_enabled=False):  # a cached cast would outlive its graph
                loss = self.core(batch)
        else:
            loss = self.core(batch)
        extra = self.extra() if self.extra else None
        return loss if extra is None else loss + extra
