"""LoRA-FA: LoRA whose A does not move."""

import torch

from tests.support.models import MODELS
from tests.support.parity import off
from tests.support.tiny import train
from variants import LoRA, LoRAFA, attach, load
from variants.formats.native import save_adapter


def test_b_trains_as_loras_does_while_a_stays(tmp_path) -> None:
    adapted, lora = attach(MODELS["roberta"](), LoRAFA(r=4)), attach(MODELS["roberta"](), LoRA(r=4))
    assert all(torch.equal(a.lora_A, b.lora_A) for a, b in zip(adapted.layers, lora.layers, strict=True))
    assert adapted.count()["adapter"] * 2 == lora.count()["adapter"]
    start = adapted.layers[0].lora_A.clone()
    train({k: p for k, p in adapted.trained().items() if k not in adapted.head}, 1)
    train({k: p for k, p in lora.trained().items() if k.endswith("lora_B")}, 1)
    for mine, other in zip(adapted.layers, lora.layers, strict=True):
        assert off(mine.delta_weight(), other.delta_weight()) < 1e-6 and mine.lora_B.any()
    assert torch.equal(adapted.layers[0].lora_A, start)
    save_adapter(adapted, tmp_path)
    again = load(MODELS["roberta"](), tmp_path)
    assert torch.equal(again.layers[0].lora_A, start)
