"""OLoRA against PEFT's, which starts from the same QR factors."""

import peft

from tests.support.models import MODELS
from tests.support.parity import MAPS, compare, off, pair
from variants import OLoRA, attach

THEIRS = peft.LoraConfig(r=4, lora_alpha=6, target_modules=MAPS["roberta"], init_lora_weights="olora")


def test_equals_peft() -> None:
    found = compare(pair("roberta", OLoRA(r=4, alpha=6.0, target="query,value"), THEIRS))
    assert max(found.values()) < 1e-5, found


def test_starts_as_peft_does() -> None:
    adapted = attach(MODELS["roberta"](), OLoRA(r=4, alpha=6.0, target="query,value"))
    other = peft.get_peft_model(MODELS["roberta"](), THEIRS).base_model.model
    for layer in adapted.layers:
        module = other.get_submodule(layer.site.path)
        assert off(layer.lora_A, module.lora_A.default.weight) < 1e-5
        assert off(layer.lora_B, module.lora_B.default.weight) < 1e-5
        assert off(layer.site.module.weight, module.base_layer.weight) < 1e-5
