"""Times of several ways to do one thing, measured side by side: what else the machine does falls on all alike."""

from __future__ import annotations

import random
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from variants.errors import UserError


@dataclass(frozen=True)
class Ratio:
    """How long one way takes as a multiple of the reference, round by round: the median and the two quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def in_turn(
    ways: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 3, synchronize: Callable[[], object] = int
) -> dict[str, list[float]]:
    """Seconds that each way takes, by way and round.

    Each round calls all ways once, in an order drawn anew from a fixed seed: none has always the same one before it.

    Args:
        rounds, warm_up: how many are measured, and how many come first and are not.
        synchronize: waits for the device (``torch.cuda.synchronize``); called before and after each way.
    """
    order, draw = list(ways), random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for current in range(-warm_up, rounds):
        draw.shuffle(order)
        for name in order:
            synchronize()
            start = time.perf_counter()
            ways[name]()
            synchronize()
            if current >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(seconds: Mapping[str, list[float]], reference: str) -> dict[str, Ratio]:
    """Each way's time over the reference's of the same round."""
    found = {}
    for name, times in seconds.items():
        paired = [a / b for a, b in zip(times, seconds[reference], strict=True)]
        low, median, high = statistics.quantiles(paired, n=4) if len(paired) > 1 else paired * 3
        found[name] = Ratio(median, low, high)
    return found


def synchronizer(device: str) -> Callable[[], object]:
    """What waits until ``device`` has done all it was given.

    Raises:
        UserError: it is neither the CPU nor a GPU that torch can use.
    """
    if device == "cpu":
        return int
    import torch

    if not re.fullmatch(r"cuda(:\d+)?", device):
        raise UserError(f"--device must be cpu, cuda or cuda:N, not {device!r}")
    if int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {device}: torch can use {torch.cuda.device_count()} GPUs here")
    return lambda: torch.cuda.synchronize(device)
