"""A training step in several processes, as plain PyTorch computes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch.distributed as dist
from torch import Tensor, nn

Batch = dict[str, Tensor]


class PlainStep:
    """Forward and backward pass of a batch, and gradients averaged tensor by tensor: the reference of `GraphedStep`.

    Args:
        compute: batch -> tensors, the first of which is the scalar to differentiate.
        parameters: all that trains.

    Attributes:
        unused: parameters that this process has given no gradient since :meth:`zero`.
    """

    def __init__(self, compute: Callable[[Batch], tuple[Tensor, ...]], parameters: Iterable[nn.Parameter]) -> None:
        self.compute, self.parameters = compute, list(dict.fromkeys(parameters))
        self.unused: list[nn.Parameter] = []

    def zero(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """The outputs of ``compute`` for a batch, detached."""
        outputs = self.compute(batch)
        outputs[0].backward()
        self.unused = [parameter for parameter in self.parameters if parameter.grad is None]
        return tuple(output.detach() for output in outputs)

    def average(self) -> None:
        """Replace the gradients by their mean over all processes; where one has none, it counts as zero."""
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = parameter.new_zeros(parameter.shape)
            dist.all_reduce(parameter.grad)
            parameter.grad.div_(dist.get_world_size())
