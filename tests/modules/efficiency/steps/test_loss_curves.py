"""Loss curves: ours are PEFT's, and another computation is told."""

import pytest

from modules.efficiency.steps import loss_curves
from modules.efficiency.steps.scenarios import Scenario
from tests.support.efficiency import CPU, SMALL


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["tiny", "tiny-gpt2"])
def test_losses_equal_pefts(shape, monkeypatch):
    monkeypatch.setattr(loss_curves, "STEPS", 12)
    scenario = Scenario("t", shape, 4, 16, options=SMALL)
    records = list(loss_curves.compare(scenario, CPU, ("eager", "trained"), precisions=("fp32",)))
    assert len(records) == (8 if shape == "tiny" else 6)
    for record in records:
        assert record["difference"] < 1e-5 and record["effect"] > 1e-3 and loss_curves.agrees(record), record
        assert len(record["losses"]) == loss_curves.STEPS and max(record["pointwise"], record["gradient"]) < 1e-5
        start, *_, end = record["losses"][:: loss_curves.BATCHES]
        assert end < start  # something was learnt


@pytest.mark.slow
def test_curves_tell_another_computation(monkeypatch):
    from variants.methods.lora import LoRALayer

    monkeypatch.setattr(LoRALayer, "forward", lambda self, x, y: y)  # as fast as can be
    monkeypatch.setattr(loss_curves, "STEPS", 6)
    scenario = Scenario("t", "tiny", 4, 16, methods=("lora",))
    record, rounded = loss_curves.compare(scenario, CPU, ("eager",), precisions=("fp32", "bf16"))
    assert record["difference"] == pytest.approx(record["effect"])
    assert not loss_curves.agrees(record) and not loss_curves.agrees(rounded)
    assert min(record["gradient"], rounded["gradient"]) > 0.1


@pytest.mark.slow
def test_bf16_has_medians_over_starts_and_what_rounding_does_to_pefts(monkeypatch):
    monkeypatch.setattr(loss_curves, "STEPS", 6)
    scenario = Scenario("t", "tiny", 4, 16, methods=("lora",))
    (record,) = loss_curves.compare(scenario, CPU, ("eager",), precisions=("bf16",))
    draws = record["draws"]
    assert len(draws) == loss_curves.DRAWS
    for name in loss_curves.FIGURES:
        assert record[name] == sorted(draw[name] for draw in draws)[1]
    assert 0 < record["gradient"] < 3 * record["gradient_rounding"] < 0.3
    assert loss_curves.agrees(record) and not loss_curves.agrees(record | {"gradient": 3 * record["gradient_rounding"]})
