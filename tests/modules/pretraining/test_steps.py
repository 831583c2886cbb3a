"""Optimizer steps of a pretraining are the same with acceleration and without."""

import pytest
import torch

from modules.pretraining import steps


def test_steps_without_the_folder_are_the_same(monkeypatch):
    outcomes = []
    for there in (True, False):
        monkeypatch.setattr(steps, "has_acceleration", lambda there=there: there)
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        take = steps.Steps(
            model, lambda batch, model=model: (30 * model(batch["x"]).square().sum(),), weight_decay=0.1, lr=0.1
        )
        assert (take._graphed is None) is not there
        losses = [take({"x": torch.full((4, 3), float(step))})[0].item() for step in range(1, 4)]
        assert all(p.grad.norm() <= steps.MAX_NORM + 1e-4 for p in model.parameters())
        outcomes.append((losses, [p.detach().clone() for p in model.parameters()]))
    (losses, ours), (others, theirs) = outcomes
    assert losses == pytest.approx(others)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert losses[0] != losses[1] and [g["weight_decay"] for g in take.optimizer.param_groups] == [0.1, 0.0]
