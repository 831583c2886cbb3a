"""CorDA against its dense formula, and against PEFT's own initialisation.

PEFT takes one text a batch and divides what it puts into a map by its largest value, so that texts weigh alike whatever
their size; here all tokens weigh the same, as in the paper's C = XXᵀ. Of one text both are the same update: how much of
it stands in A and how much in B differs by the size of C, which is 1 on its mean diagonal here.
"""

import peft
import pytest
import torch
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda

from tests.support.models import MODELS, inputs
from tests.support.parity import off
from tests.variants.methods.test_eva import Chain, spread, stacked_inputs
from tests.variants.training.test_batches import batches
from variants import CorDA, attach


@torch.no_grad()
@pytest.mark.parametrize("mode", ["ipm", "kpm"])
def test_a_part_of_the_weight_by_what_data_excite_trains(mode) -> None:
    model, batch = MODELS["roberta"]().double(), inputs("roberta")
    before = model(**batch).logits
    weight = model.roberta.encoder.layer[0].attention.self.query.weight.clone()
    adapted = attach(model, CorDA(r=3, mode=mode))
    x = stacked_inputs(adapted)[adapted.layers[0].site.path].double()
    with torch.enable_grad():
        adapted.init_from_data(batches("roberta"))
    assert off(model(**batch).logits, before) < 1e-9
    C = x.mT @ x
    C = C / C.diagonal().mean() + 0.01 * torch.eye(16)
    U, S, V = torch.linalg.svd(weight.double() @ C)
    part = slice(0, 3) if mode == "ipm" else slice(13, 16)
    expected = U[:, part] * S[part] @ V[part] @ torch.linalg.inv(C)
    layer = adapted.layers[0]
    assert off(layer.delta_weight(), expected) < 1e-7 * expected.abs().max()
    assert off(layer.site.module.weight, weight - layer.delta_weight()) < 1e-12


@pytest.mark.parametrize("mode", ["ipm", "kpm"])
def test_starts_as_peft_does(mode) -> None:
    """The update that is taken off, what is left, and the factors up to one number for each map."""
    batch, model = spread(400, 1.1)[None], Chain()
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["first", "second", "third"], init_lora_weights="corda")
    config.corda_config = CordaConfig(corda_method=mode)
    preprocess_corda(model, config, lambda: model(batch))
    theirs = peft.get_peft_model(model, config).base_model.model
    adapted = attach(Chain(), CorDA(r=4, alpha=6.0, mode=mode, target="first,second,third"))
    adapted.init_from_data([{"input": batch}])
    for layer in adapted.layers:
        module = theirs.get_submodule(layer.site.path)
        A, B = module.lora_A.default.weight, module.lora_B.default.weight
        assert off(layer.scaling * layer.lora_B @ layer.lora_A, module.scaling["default"] * B @ A) < 1e-5
        assert off(layer.site.module.weight, module.base_layer.weight) < 1e-5
        ratio = A.norm() / layer.lora_A.norm()
        assert off(layer.lora_A.mT @ layer.lora_A, A.mT @ A / ratio**2) < 1e-5 * layer.lora_A.square().sum()
        assert off(layer.lora_B @ layer.lora_B.mT, B @ B.mT * ratio**2) < 1e-5 * layer.lora_B.square().sum()
