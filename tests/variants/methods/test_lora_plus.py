"""LoRA+: LoRA in all but the rates."""

import pytest

from tests.support.models import MODELS
from variants import LoRAPlus, VariantError, attach


def test_b_learns_at_a_multiple_of_the_rate_of_a() -> None:
    adapted = attach(MODELS["roberta"](), LoRAPlus(r=4, ratio=8.0))
    rates = {id(p): group["lr"] for group in adapted.param_groups(1e-3, head_lr=5e-4) for p in group["params"]}
    expected = {"lora_A": 1e-3, "lora_B": 8e-3}
    for name, tensor in adapted.trained().items():
        assert rates[id(tensor)] == pytest.approx(expected.get(name.rpartition(".")[2], 5e-4))


def test_a_ratio_is_above_zero() -> None:
    with pytest.raises(VariantError, match="ratio must be above 0, not 0"):
        LoRAPlus(ratio=0)
