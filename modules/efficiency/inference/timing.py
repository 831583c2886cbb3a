"""Times of several calls that take turns, so that other load of the machine affects all of them equally."""

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
    """Time of a call as a multiple of the reference's in the same round: median and quartiles over the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def no_wait() -> None:
    """The `synchronize` of a CPU, whose work is done when a call returns."""


def in_turn(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 3,
    synchronize: Callable[[], object] = no_wait,
) -> dict[str, list[float]]:
    """Seconds of each call, by name, for every round.

    A round makes all calls once in a random order (of a fixed seed), so that none always follows the same other.

    Args:
        rounds, warm_up: numbers of measured rounds, and of unmeasured ones before them.
        synchronize: waits for the device (``torch.cuda.synchronize``), before and after each call.
    """
    order, draw = list(calls), random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for current in range(-warm_up, rounds):
        draw.shuffle(order)
        for name in order:
            synchronize()
            start = time.perf_counter()
            calls[name]()
            synchronize()
            if current >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(seconds: Mapping[str, list[float]], reference: str) -> dict[str, Ratio]:
    """Each call's time divided by the reference's in the same round.

    Args:
        seconds: from `in_turn`.
    """
    found = {}
    for name, times in seconds.items():
        paired = [a / b for a, b in zip(times, seconds[reference], strict=True)]
        low, median, high = statistics.quantiles(paired, n=4) if len(paired) > 1 else paired * 3
        found[name] = Ratio(median, low, high)
    return found


def synchronizer(device: str) -> Callable[[], object]:
    """A function that waits until ``device`` has finished its work.

    Raises:
        UserError: it is neither the CPU nor a GPU that torch can use.
    """
    if device == "cpu":
        return no_wait
    import torch

    if not re.fullmatch(r"cuda(:\d+)?", device):
        raise UserError(f"--device must be cpu, cuda or cuda:N, not {device!r}")
    if int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {device}: torch can use {torch.cuda.device_count()} GPUs here")
    return lambda: torch.cuda.synchronize(device)
