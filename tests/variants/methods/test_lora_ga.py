"""LoRA-GA against the singular vectors of autograd's gradient, and against PEFT's own initialisation.

PEFT leaves A as it is, a part of V, and multiplies B by the singular values besides ⁴√out/√γ: its factors are the
paper's directions in other sizes. The paper's and ours are ⁴√out/√γ times parts of U and V, both alike.
"""

import peft
import pytest
import torch

from tests.support.models import MODELS, inputs
from tests.support.parity import MAPS, off
from tests.variants.training.test_batches import batches
from variants import LoRAGA, VariantError, attach, load
from variants.formats.native import save_adapter


def test_starts_from_the_gradient_and_as_the_base(tmp_path) -> None:
    model, batch = MODELS["roberta"]().double(), inputs("roberta")
    before = model(**batch).logits.detach()
    adapted = attach(model, LoRAGA(r=3, alpha=6.0))
    weight = adapted.layers[0].site.weight().clone()
    adapted.init_from_data(batches("roberta"))
    assert off(model(**batch).logits.detach(), before) < 1e-9
    layer, plain = adapted.layers[0], MODELS["roberta"]().double()
    own = plain.get_submodule(layer.site.path).weight.requires_grad_(True)
    sum(plain(**each).loss for each in batches("roberta")).backward()
    U, _, V = torch.linalg.svd(own.grad)
    size = 16**0.25 / 16.0**0.5
    assert off(layer.lora_A.mT @ layer.lora_A, size**2 * V[:3].mT @ V[:3]) < 1e-9
    assert off(layer.lora_B @ layer.lora_B.mT, size**2 * U[:, 3:6] @ U[:, 3:6].mT) < 1e-9
    assert layer.scaling == pytest.approx(6 / 3**0.5)
    assert off(layer.site.module.weight, weight - layer.delta_weight()) < 1e-12
    adapted.deactivate()
    assert torch.equal(layer.site.module.weight, weight)
    adapted.switch("default")
    save_adapter(adapted, tmp_path)
    again = load(MODELS["roberta"]().double(), tmp_path)
    assert off(again.model(**batch).logits, before) < 1e-9
    assert torch.equal(again.layers[0].lora_A, layer.lora_A)


def test_starts_in_pefts_directions() -> None:
    """Row by row of A and column by column of B, up to their signs and sizes; both take the start off the base."""
    loraga = pytest.importorskip("peft.tuners.lora.loraga", reason="this PEFT has no LoRA-GA")
    model = MODELS["roberta"]().double()
    options = {"target_modules": MAPS["roberta"], "layers_to_transform": [0], "use_rslora": True}
    options |= {"init_lora_weights": "lora_ga", "lora_ga_config": peft.LoraGAConfig(direction="ArB2r", stable_gamma=16)}
    config = peft.LoraConfig(r=4, lora_alpha=6, **options)  # 4r are all directions: its decomposition is exact
    loraga.preprocess_loraga(model, config, lambda: [model(**each).loss.backward() for each in batches("roberta")])
    theirs = peft.get_peft_model(model, config).base_model.model
    adapted = attach(MODELS["roberta"]().double(), LoRAGA(r=4, alpha=6.0, gamma=16.0, layers="0"))
    adapted.init_from_data(batches("roberta"))
    size, plain = 16**0.25 / 16.0**0.5, MODELS["roberta"]().double()
    assert len(adapted.layers) == 2
    for layer in adapted.layers:
        module = theirs.get_submodule(layer.site.path)
        A, B = module.lora_A.default.weight, module.lora_B.default.weight
        assert off(layer.lora_A / size, A * (layer.lora_A * A).sum(1, keepdim=True).sign()) < 1e-5
        assert off(layer.lora_B / size, B / B.norm(dim=0) * (layer.lora_B * B).sum(0).sign()) < 1e-5
        assert module.scaling["default"] == pytest.approx(layer.scaling)
        before = plain.get_submodule(layer.site.path).weight
        assert off(layer.site.module.weight, before - layer.scaling * layer.lora_B @ layer.lora_A) < 1e-12
        assert off(module.base_layer.weight, before - layer.scaling * B @ A) < 1e-6


def test_its_start_takes_two_ranks_of_the_map() -> None:
    adapted = attach(MODELS["roberta"](), LoRAGA(r=9))
    with pytest.raises(VariantError, match="2r=18 is more than"):
        adapted.init_from_data(batches("roberta"))
    with pytest.raises(VariantError, match="gamma must be above 0"):
        LoRAGA(gamma=0)
