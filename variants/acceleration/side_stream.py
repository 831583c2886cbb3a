"""Small products and sums of adapters in a branch of the CUDA graph, beside the large products of the base."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_STREAMS: dict[torch.device, torch.cuda.Stream] = {}
_WAITED_FOR: list[tuple[Tensor, ...]] = []


def used(tensor: Tensor) -> list[int] | None:
    """Count one more use of a part; its counter, or None for any other tensor."""
    uses = getattr(tensor, "uses", None)
    if uses is not None:
        uses[0] += 1
    return uses


def beside(uses: list[int] | None, compute: Callable[[], Tensor], *operands: Tensor) -> Tensor:
    """The gradient of a part of :func:`apart` or of a prepared copy, which is not needed before :func:`join`.

    While a CUDA graph is captured it goes to a branch of its own, so that the small operations of adapters run beside
    the large ones of the base. Everywhere else, and for a part that is used twice, whose gradients are added up
    before :func:`join`, it is simply computed.
    """
    if uses is None or uses[0] != 1 or not _capturing(operands[0]):
        return compute()
    side = _branch(operands[0].device)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        result = compute()
    _WAITED_FOR.append((*operands, result))  # their memory is not another's before the branch has ended
    return result


def mark(x: Tensor) -> torch.cuda.Event | None:
    """The moment at which ``x`` is there, while a CUDA graph is captured."""
    if not _capturing(x):
        return None
    event = torch.cuda.Event()
    event.record()
    return event


def since(ready: torch.cuda.Event | None, device: torch.device, compute: Callable[[], Tensor]) -> Tensor:
    """What is computed from a marked moment on, beside all that was started after it."""
    if ready is None:
        return compute()
    side = _branch(device)
    side.wait_event(ready)
    with torch.cuda.stream(side):
        result = compute()
    torch.cuda.current_stream().wait_stream(side)
    return result


def _capturing(tensor: Tensor) -> bool:
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def _branch(device: torch.device) -> torch.cuda.Stream:
    if device not in _STREAMS:
        _STREAMS[device] = torch.cuda.Stream(device)
    return _STREAMS[device]


def join() -> None:
    """Wait for all gradients that were computed beside the rest."""
    if _WAITED_FOR:
        device = _WAITED_FOR[0][0].device
        torch.cuda.current_stream(device).wait_stream(_STREAMS[device])
        _WAITED_FOR.clear()


def apart(together: Tensor) -> tuple[Tensor, ...]:
    """The parts (...) of a tensor (n, ...); their gradients may be computed :func:`beside` the rest."""
    parts = _Apart.apply(together)
    for part in parts:
        part.uses = [0]
    return parts


class _Apart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, together: Tensor) -> tuple[Tensor, ...]:
        return together.unbind()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        join()
        return torch.stack(gradients)
