"""Measurements: every implementation of a scenario has its row, also one that fails."""

import pytest
import torch

from modules.efficiency import report
from modules.efficiency.steps import backbones, grid
from modules.efficiency.steps.scenarios import Scenario
from tests.support.efficiency import CPU, ROBERTA, SMALL, measured


@pytest.mark.slow
def test_ways_of_one_library_train_as_much_as_the_other():
    found = measured(Scenario("t", "tiny", 4, 16, modes=("eager",), options=SMALL))["ways"]
    for method in grid.METHODS:
        assert found[f"ours {method} eager"]["trained"] == found[f"peft {method} eager"]["trained"]
    assert found["full eager"]["trained"] == sum(p.numel() for p in backbones.build(ROBERTA, CPU).parameters())
    assert all(len(record["rounds_ms"]) == 3 for record in found.values())


@pytest.mark.slow
def test_a_way_that_fails_is_a_row_and_stops_nobody():
    scenario = Scenario("t", "tiny", 4, 16, methods=("lora",), modes=("graphs", "eager"))
    record = measured(scenario, ("ours", "limit"))
    found = record["ways"]
    if not torch.cuda.is_available():
        assert found["ours lora graphs"]["failed"] == "RuntimeError: CUDA graphs need a GPU"
    assert found["ours lora eager"]["step_ms"] > 0
    text = "\n".join(report._scenario(record))
    assert "| ours lora graphs | failed: RuntimeError: CUDA graphs need a GPU |" in text
