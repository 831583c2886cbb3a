"""A training step of a language model is AdamW on clipped gradients, with CUDA graphs or without."""

import pytest
import torch

from modules.pretraining import training_step
from modules.pretraining.training_step import MAX_NORM, TrainingStep

INPUTS = [torch.full((4, 3), float(step)) for step in range(1, 5)]


def compute(model):
    return lambda batch: (30 * model(batch["x"]).square().sum(),)


def linear(device: str = "cpu") -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2).to(device)


def outcome(device: str, reference: bool) -> tuple[list[float], list[torch.Tensor]]:
    model = linear(device)
    step = TrainingStep(compute(model), model, lr=0.1, weight_decay=0.1, reference=reference)
    losses = [step({"x": x.to(device)})[0].item() for x in INPUTS]
    return losses, [p.detach().cpu() for p in model.parameters()]


def test_a_step_is_adamw_on_clipped_gradients():
    losses, weights = outcome("cpu", reference=True)
    model = linear()
    groups = [{"params": [model.weight], "weight_decay": 0.1}, {"params": [model.bias], "weight_decay": 0.0}]
    optimizer, expected = torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.98)), []
    for x in INPUTS:
        optimizer.zero_grad()
        (loss,) = compute(model)({"x": x})
        loss.backward()
        assert torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM) > MAX_NORM
        optimizer.step()
        expected.append(loss.item())
    assert losses == pytest.approx(expected) and losses[0] != losses[1]
    torch.testing.assert_close(weights, [p.detach() for p in model.parameters()])


def test_without_the_folder_steps_are_eager(monkeypatch):
    monkeypatch.setattr(training_step, "has_acceleration", lambda: False)
    assert outcome("cpu", reference=False)[0] == outcome("cpu", reference=True)[0]


@pytest.mark.gpu("steps as CUDA graphs")
@pytest.mark.acceleration
def test_graphs_are_the_eager_steps():
    (losses, weights), (expected, others) = outcome("cuda", False), outcome("cuda", True)
    assert losses == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(weights, others)
