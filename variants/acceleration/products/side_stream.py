"""A side stream: adapters' small products run in a branch of the CUDA graph, at the same time as the base's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from variants.acceleration.basics.tensor_notes import TensorNotes

_STREAMS: dict[torch.device, torch.cuda.Stream] = {}
_WAITED_FOR: list[tuple[Tensor, ...]] = []
_USES: TensorNotes[list[int]] = TensorNotes()


def track(part: Tensor) -> Tensor:
    """Count from now on how often ``part`` is used: the gradient of a part used once may be computed later."""
    _USES.put(part, [0])
    return part


def is_tracked(tensor: Tensor) -> bool:
    """Whether uses of ``tensor`` are counted."""
    return _USES.get(tensor) is not None


def used(tensor: Tensor) -> list[int] | None:
    """Count another use of a tracked part; its counter, or None for any other tensor."""
    uses = _USES.get(tensor)
    if uses is not None:
        uses[0] += 1
    return uses


def on_side_stream(uses: list[int] | None, compute: Callable[[], Tensor], *operands: Tensor) -> Tensor:
    """The gradient of a tracked part, which is not needed before :func:`join`.

    While a CUDA graph is captured it goes to a branch of its own, so that the small operations of adapters run at the
    same time as the large ones of the base. Everywhere else, and for a part that is used twice, whose gradients are
    added up before :func:`join`, it is simply computed.
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


def after_event(ready: torch.cuda.Event | None, device: torch.device, compute: Callable[[], Tensor]) -> Tensor:
    """Compute from a marked moment on, at the same time as all that was started after it."""
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
    """Wait for all gradients on the side stream."""
    if _WAITED_FOR:
        device = _WAITED_FOR[0][0].device
        torch.cuda.current_stream(device).wait_stream(_STREAMS[device])
        _WAITED_FOR.clear()


def split(together: Tensor) -> tuple[Tensor, ...]:
    """The tracked parts (...) of a tensor (n, ...); their gradients may be computed on the side stream."""
    return tuple(track(part) for part in _Split.apply(together))


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, together: Tensor) -> tuple[Tensor, ...]:
        return together.unbind()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        join()
        return torch.stack(gradients)
