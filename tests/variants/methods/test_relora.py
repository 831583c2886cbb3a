"""ReLoRA: pairs one after the other, a sum of all, moments anew."""

import pytest
import torch

from tests.support.models import MODELS, inputs
from tests.support.parity import loss, off
from variants import ReLoRA, VariantError, attach, load
from variants.contract.models import shift
from variants.formats.native import save_adapter


def test_each_cycle_begins_where_the_last_ended(tmp_path) -> None:
    adapted, batch = attach(MODELS["roberta"](), ReLoRA(r=2, cycles=3)), inputs("roberta")
    optimizer, layer = torch.optim.AdamW(adapted.param_groups(1e-2)), adapted.layers[0]
    restarts = []
    for step in range(1, 8):
        loss(adapted.model, "roberta").backward()
        optimizer.step()
        before, A = adapted.model(**batch).logits.detach(), layer.lora_A.detach().clone()
        adapted.after_step(step, 7, optimizer)
        assert off(adapted.model(**batch).logits.detach(), before) < 1e-5
        if not layer.lora_B.any():
            restarts.append(step)
            moments = optimizer.state[layer.lora_B]
            assert not moments["exp_avg"].any() and not moments["exp_avg_sq"].any()
            assert not torch.equal(layer.lora_A, A)
        optimizer.zero_grad()
    assert restarts == [3, 5]
    assert torch.linalg.matrix_rank(layer.delta_weight(), rtol=1e-5) == 6
    save_adapter(adapted, tmp_path)
    assert off(load(MODELS["roberta"](), tmp_path).model(**batch).logits, adapted.model(**batch).logits) < 1e-6


def test_restarts_draw_from_the_runs_seed() -> None:
    drawn = []
    for seed in (0, 0, 1):
        adapted = attach(MODELS["roberta"](), ReLoRA(r=2, cycles=2), seed)
        adapted.after_step(2, 4)
        drawn.append(adapted.layers[0].lora_A.detach().clone())
        assert 0.5 < drawn[-1].std() * (3 * 16) ** 0.5 < 1.5, "uniform in ±1/√16, as LoRA's start"
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_one_cycle_is_lora() -> None:
    adapted = attach(MODELS["roberta"](), ReLoRA(r=2, cycles=1))
    shift(adapted.layers[0].lora_B)
    before = adapted.layers[0].delta_weight()
    for step in range(1, 4):
        adapted.after_step(step, 3)
    assert torch.equal(adapted.layers[0].delta_weight(), before)
    with pytest.raises(VariantError, match="cycles must be at least 1"):
        ReLoRA(cycles=0)
