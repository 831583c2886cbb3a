"""GaLore's optimizer against Adam, where the projection loses nothing and where it does."""

import copy

import pytest
import torch
from torch import nn

from tests.support.models import MODELS
from tests.support.parity import loss, off
from variants import Full, GaLore, VariantError, attach
from variants.methods.galore import GaLoreAdamW


def steps(optimizer, parameters, gradients) -> None:
    for each in gradients:
        for parameter, gradient in zip(parameters, each, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5,)])
def test_is_adam_on_projected_gradients(shape) -> None:
    """With P from the first gradient: Adam on PᵀG, whose steps come back through P and are scaled."""
    rng = torch.Generator().manual_seed(0)
    gradients = [[torch.randn(shape, generator=rng)] for _ in range(3)]
    mine = nn.Parameter(torch.zeros(shape))
    groups = [{"params": [mine], "lr": 0.1, "weight_decay": 0.0}]
    steps(GaLoreAdamW(groups, rank=2, gap=100, scale=3.0), [mine], gradients)
    if len(shape) == 1:
        plain = nn.Parameter(torch.zeros(shape))
        steps(torch.optim.AdamW([plain], lr=0.1, weight_decay=0.0), [plain], gradients)
        assert off(mine, plain) < 1e-5
        return
    U, _, V = torch.linalg.svd(gradients[0][0], full_matrices=False)
    tall = shape[0] >= shape[1]
    P = V[:2].mT if tall else U[:, :2]
    small = nn.Parameter(torch.zeros((shape[0], 2) if tall else (2, shape[1])))
    low = [[g @ P if tall else P.mT @ g] for (g,) in gradients]
    steps(torch.optim.AdamW([small], lr=0.1, weight_decay=0.0), [small], low)
    assert off(mine, 3.0 * (small @ P.mT if tall else P @ small)) < 1e-5


def test_a_state_comes_back() -> None:
    mine = nn.Parameter(torch.zeros(6, 4))
    rng = torch.Generator().manual_seed(0)
    gradients = [[torch.randn(6, 4, generator=rng)] for _ in range(4)]
    made = [GaLoreAdamW([{"params": [mine], "lr": 0.1}], rank=2, gap=3, scale=1.0)]
    steps(made[0], [mine], gradients[:2])
    again = nn.Parameter(mine.detach().clone())
    made.append(GaLoreAdamW([{"params": [again], "lr": 0.1}], rank=2, gap=3, scale=1.0))
    made[1].load_state_dict(copy.deepcopy(made[0].state_dict()))
    steps(made[0], [mine], gradients[2:])
    steps(made[1], [again], gradients[2:])
    assert torch.equal(mine, again)


def test_trains_what_full_fine_tuning_does_with_less_state() -> None:
    adapted, full = attach(MODELS["roberta"](), GaLore(r=2)), attach(MODELS["roberta"](), Full())
    assert adapted.count() == full.count()
    optimizer = adapted.optimizer(adapted.param_groups(1e-3, weight_decay=0.01))
    loss(adapted.model, "roberta").backward()
    optimizer.step()
    sizes = sum(t.numel() for s in optimizer.state.values() for k, t in s.items() if k.startswith("exp"))
    assert sizes < sum(p.numel() for p in adapted.trained().values())
    with pytest.raises(VariantError, match="must be at least 1"):
        GaLore(gap=0)
