"""An optimizer's state started anew, for all or for one of several stacked adapters."""

import torch
from torch import nn

from variants.training.optimizers import forget


def test_moments_become_zero_in_place_and_steps_go_on() -> None:
    parameters = [nn.Parameter(torch.ones(3, 2)) for _ in range(2)]
    optimizer = torch.optim.AdamW(parameters)
    sum(p.square().sum() for p in parameters).backward()
    optimizer.step()
    first, second = (optimizer.state[p] for p in parameters)
    kept = first["exp_avg"]
    forget(optimizer, parameters[:1])
    assert first["exp_avg"] is kept and not first["exp_avg"].any() and not first["exp_avg_sq"].any()
    assert first["step"] == 1 and second["exp_avg"].all()
    forget(optimizer, parameters[1:], index=1)
    assert second["exp_avg"][[0, 2]].all() and not second["exp_avg"][1].any()
    forget(None, parameters)
