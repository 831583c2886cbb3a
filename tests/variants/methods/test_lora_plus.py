"""LoRA+: LoRA in all but the rates, which are those of PEFT's optimizer for it.

PEFT gives the rate of B to every vector that trains as well, such as the biases of a head; here the head learns at the
head's rate.
"""

import peft
import pytest
import torch
from peft.optimizers import create_loraplus_optimizer

from tests.support.models import MODELS
from tests.support.parity import MAPS, loss, off
from variants import LoRAPlus, VariantError, attach


def test_b_learns_at_a_multiple_of_the_rate_of_a() -> None:
    adapted = attach(MODELS["roberta"](), LoRAPlus(r=4, ratio=8.0))
    rates = {id(p): group["lr"] for group in adapted.param_groups(1e-3, head_lr=5e-4) for p in group["params"]}
    expected = {"lora_A": 1e-3, "lora_B": 8e-3}
    for name, tensor in adapted.trained().items():
        assert rates[id(tensor)] == pytest.approx(expected.get(name.rpartition(".")[2], 5e-4))


def test_ten_steps_are_those_of_pefts_optimizer() -> None:
    adapted = attach(MODELS["roberta"](), LoRAPlus(r=4, alpha=6.0, ratio=8.0, target="query,value"), head=[])
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=MAPS["roberta"])
    theirs = peft.get_peft_model(MODELS["roberta"](), config)
    names = {"lora_A": "lora_A.default.weight", "lora_B": "lora_B.default.weight"}
    pairs = []
    for key, own in adapted.trained().items():
        path, _, name = key.rpartition(".")
        pairs.append((own, theirs.base_model.model.get_parameter(f"{path}.{names[name]}")))
        pairs[-1][1].data.copy_(own.detach())
    own = torch.optim.AdamW(adapted.param_groups(1e-3, weight_decay=0.1))
    decay = {"weight_decay": 0.1, "loraplus_weight_decay": 0.1}
    other = create_loraplus_optimizer(theirs, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=8.0, **decay)
    start = [mine.detach().clone() for mine, _ in pairs]
    for step in range(10):
        for model, optimizer in ((adapted.model, own), (theirs, other)):
            optimizer.zero_grad()
            loss(model, "roberta", 3 + step % 2).backward()
            optimizer.step()
    assert all(off(mine, before) > 1e-3 for (mine, _), before in zip(pairs, start, strict=True))
    assert max(off(*pair) for pair in pairs) < 1e-5


def test_a_ratio_is_above_zero() -> None:
    with pytest.raises(VariantError, match="ratio must be above 0, not 0"):
        LoRAPlus(ratio=0)
