"""VB-LoRA against PEFT, its size and its rates."""

import peft
import pytest
import torch

from tests.support.models import MODELS
from tests.support.parity import MAPS, adapter_size, compare, pair
from variants import VariantError, VBLoRA, attach


def test_equals_peft() -> None:
    theirs = peft.VBLoRAConfig(r=3, num_vectors=10, vector_length=8, topk=2, target_modules=MAPS["roberta"])
    made = pair("roberta", VBLoRA(r=3, vectors=10, length=8, target="query,value"), theirs)
    (bank,) = [both for key, both in made.tensors().items() if key.endswith("bank.vectors")]
    with torch.no_grad():
        for vectors in bank:
            vectors.mul_(30)  # else gradients are too small to be compared
    found = compare(made)
    assert max(found.values()) < 1e-5, found


def test_size() -> None:
    """The bank, and h logits for each sub-vector of A and B: 24 maps of 768 with r = 4 have 24·4·6 of them."""
    assert adapter_size("roberta-base", VBLoRA()) == 90 * 256 + 24 * 4 * 6 * 90


def test_one_bank_with_a_rate_of_its_own() -> None:
    adapted = attach(MODELS["roberta"](), VBLoRA(r=2, length=256, target="all-linear"))
    assert len({id(layer.bank) for layer in adapted.layers}) == 1
    assert adapted.layers[0].bank.vectors.shape == (90, 8), "the divisor that 16 and 24 share"
    rates = [group["lr"] for group in adapted.param_groups(1e-2)]
    assert rates[:2] == pytest.approx([1e-2, 1e-3])
    with pytest.raises(VariantError, match="k=3 must lie between 1 and vectors=2"):
        VBLoRA(k=3, vectors=2)
