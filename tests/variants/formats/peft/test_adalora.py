"""AdaLoRA in PEFT's form: only the triplets that are left are written."""

import pytest
import torch
from safetensors.torch import load_file

from tests.support.peft_files import ADALORA, LORA, TENSORS, by_peft, upstream
from tests.support.tiny import logits, roberta, train, trained
from variants import AdaLoRA, formats
from variants.formats import peft

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:PEFT before 0.21:UserWarning")


def test_a_pruned_adalora_comes_from_peft_and_goes_there(tmp_path):
    """Both write the triplets that are left; one layer has none."""
    left = {"0.attention.self.query": [0, 2], "0.attention.self.value": [], "1.attention.self.query": [1, 2, 3]}
    model = upstream.get_peft_model(roberta(), upstream.AdaLoraConfig(**ADALORA, **LORA))
    train({k: p for k, p in model.named_parameters() if p.requires_grad}, 3)
    pattern = {}
    with torch.no_grad():
        for key, parameter in model.base_model.model.named_parameters():
            if "lora_E" in key:
                kept = left.get(key.partition("layer.")[2].partition(".lora_E")[0], [0])
                pattern[key] = [i in kept for i in range(4)]
                parameter[[i for i in range(4) if i not in kept]] = 0
    model.peft_config["default"].rank_pattern = pattern
    expected = logits(model)
    model.save_pretrained(tmp_path / "theirs")
    adapted = formats.load(roberta(), tmp_path / "theirs")
    assert [layer.kept.bool().tolist() for layer in adapted.layers] == list(pattern.values())
    assert (logits(adapted.model) - expected).abs().max() < 1e-5
    peft.save(adapted, tmp_path / "ours")
    assert (logits(by_peft(roberta(), tmp_path / "ours")) - expected).abs().max() < 1e-5


def test_a_budget_that_masks_is_written_small(tmp_path):
    adapted = trained(roberta(), AdaLoRA(init_r=4, target_r=2, alpha=6))
    for i, layer in enumerate(adapted.layers):  # as the budget does; the last layer loses all four
        layer.kept[: i + 1] = 0
        layer.lora_E.data[: i + 1] = 0
    expected = logits(adapted.model)
    peft.save(adapted, tmp_path)
    sizes = [t.shape[0] for key, t in sorted(load_file(tmp_path / TENSORS).items()) if key.endswith("lora_E")]
    assert sizes == [3, 2, 1, 0]
    assert (logits(by_peft(roberta(), tmp_path)) - expected).abs().max() < 1e-5
    again = formats.load(roberta(), tmp_path)
    assert [layer.kept.tolist() for layer in again.layers] == [layer.kept.tolist() for layer in adapted.layers]
    assert torch.equal(logits(again.model), expected)
    for layer in again.layers:
        layer.shrink()
    peft.save(again, tmp_path)
    assert (logits(by_peft(roberta(), tmp_path)) - expected).abs().max() < 1e-5
