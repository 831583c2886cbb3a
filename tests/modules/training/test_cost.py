"""What a run cost."""

from __future__ import annotations

import sys

import pytest
import torch

from modules.training import cost


@pytest.mark.skipif(not sys.platform.startswith("linux") or torch.cuda.is_available(), reason="resident memory, Linux")
def test_what_earlier_runs_left_is_not_counted(monkeypatch):
    """Fault B4: the figure of a run does not depend on its place in its worker."""
    monkeypatch.setattr(cost, "_starts", [])
    for _ in range(2):  # the first run of a process loads its libraries
        cost.reset_peak_memory()
    second = cost.peak_memory_mb()
    left = b"\1" * (80 * 2**20)
    cost.reset_peak_memory()
    third = cost.peak_memory_mb()
    assert third == pytest.approx(second, abs=20)
    needed = b"\1" * (100 * 2**20)
    del needed
    assert cost.peak_memory_mb() == pytest.approx(third + 100, abs=20)
    cost.reset_peak_memory()
    assert cost.peak_memory_mb() == pytest.approx(third, abs=20) and left
