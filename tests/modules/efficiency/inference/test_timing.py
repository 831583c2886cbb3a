"""Times are taken in turn, and ratios within a round."""

from __future__ import annotations

import random

import pytest

from modules.efficiency.inference.timing import in_turn, ratios


def test_ratios_are_within_rounds(monkeypatch) -> None:
    """A machine that slows down and speeds up from round to round leaves the ratio as it is."""
    now, pace, draw = [0.0], [1.0], random.Random(1)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    calls: list[str] = []

    def way(name: str, seconds: float):
        def work() -> None:
            if len(calls) % 2 == 0:
                pace[0] = draw.uniform(1, 100)
            calls.append(name)
            now[0] += pace[0] * seconds

        return work

    seconds = in_turn({"plain": way("plain", 1), "slow": way("slow", 1.25)}, rounds=20, warm_up=2)
    assert [len(times) for times in seconds.values()] == [20, 20]
    found = ratios(seconds, "plain")
    assert (found["slow"].median, found["slow"].low, found["slow"].high) == pytest.approx((1.25, 1.25, 1.25))
    rounds = [tuple(calls[i : i + 2]) for i in range(0, len(calls), 2)]
    assert {frozenset(both) for both in rounds} == {frozenset(("plain", "slow"))}
    assert len(set(rounds)) == 2, "the order is drawn anew"


def test_the_device_is_waited_for() -> None:
    events: list[str] = []
    in_turn({"a": lambda: events.append("a")}, rounds=2, warm_up=1, synchronize=lambda: events.append("wait"))
    assert events == ["wait", "a", "wait"] * 3
