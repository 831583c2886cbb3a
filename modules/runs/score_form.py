"""How a score is printed: fractions times 100; an error, whose sign is turned, in its unit."""

from __future__ import annotations


def form(metric: str) -> tuple[float, int]:
    """(factor, digits after the point) of a metric's printed values."""
    return (1.0, 3) if metric.startswith("neg_") else (100.0, 1)


def printed(metric: str, value: float) -> str:
    """Such as `63.4`."""
    factor, digits = form(metric)
    return f"{factor * value:.{digits}f}"
