"""LoRA-GA against the singular vectors of autograd's gradient."""

import pytest
import torch

from tests.support.models import MODELS, inputs
from tests.support.parity import off
from tests.variants.training.test_batches import batches
from variants import LoRAGA, VariantError, attach, load
from variants.formats.native import save_adapter


def test_starts_from_the_gradient_and_as_the_base(tmp_path) -> None:
    model, batch = MODELS["roberta"](), inputs("roberta")
    before = model(**batch).logits.detach()
    adapted = attach(model, LoRAGA(r=3, alpha=6.0))
    weight = adapted.layers[0].site.weight().clone()
    adapted.init_from_data(batches("roberta"))
    assert off(model(**batch).logits.detach(), before) < 1e-5
    layer, plain = adapted.layers[0], MODELS["roberta"]()
    own = plain.get_submodule(layer.site.path).weight.requires_grad_(True)
    sum(plain(**each).loss for each in batches("roberta")).backward()
    U, _, V = torch.linalg.svd(own.grad)
    size = 16**0.25 / 16.0**0.5
    assert off(layer.lora_A.mT @ layer.lora_A, size**2 * V[:3].mT @ V[:3]) < 1e-4
    assert off(layer.lora_B @ layer.lora_B.mT, size**2 * U[:, 3:6] @ U[:, 3:6].mT) < 1e-4
    assert layer.scaling == pytest.approx(6 / 3**0.5)
    assert off(layer.site.module.weight, weight - layer.delta_weight()) < 1e-6
    adapted.deactivate()
    assert torch.equal(layer.site.module.weight, weight)
    adapted.switch("default")
    save_adapter(adapted, tmp_path)
    again = load(MODELS["roberta"](), tmp_path)
    assert off(again.model(**batch).logits, before) < 1e-5
    assert torch.equal(again.layers[0].lora_A, layer.lora_A)


def test_its_start_takes_two_ranks_of_the_map() -> None:
    adapted = attach(MODELS["roberta"](), LoRAGA(r=9))
    with pytest.raises(VariantError, match="2r=18 is more than"):
        adapted.init_from_data(batches("roberta"))
    with pytest.raises(VariantError, match="gamma must be above 0"):
        LoRAGA(gamma=0)
