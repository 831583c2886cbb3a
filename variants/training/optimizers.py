"""What a method asks of an optimizer beside its steps."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def forget(
    optimizer: torch.optim.Optimizer | None, parameters: Iterable[nn.Parameter], index: int | None = None
) -> None:
    """Start the state of some parameters anew: moments become zero in place, as CUDA graphs need them; the count of
    steps goes on.

    Args:
        index: of stacked parameters (S, ...), the adapter whose share it is; None: all of it.
    """
    for parameter in parameters if optimizer is not None else ():
        for state in optimizer.state.get(parameter, {}).values():
            if isinstance(state, Tensor) and state.shape == parameter.shape:
                (state if index is None else state[index]).zero_()
