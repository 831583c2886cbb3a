"""PiSSA against PEFT's, which starts from the same singular vectors, and its start."""

import peft
import torch

from tests.support.models import MODELS, inputs
from tests.support.parity import MAPS, compare, off, pair
from variants import PiSSA, attach
from variants.methods.pissa import singular


def theirs(start: str) -> peft.LoraConfig:
    return peft.LoraConfig(r=4, lora_alpha=6, target_modules=MAPS["roberta"], init_lora_weights=start)


def test_equals_peft() -> None:
    """From the same start: what was taken off the weight, training, and merging."""
    found = compare(pair("roberta", PiSSA(r=4, alpha=6.0, target="query,value"), theirs("pissa")))
    assert max(found.values()) < 1e-5, found


def test_starts_as_peft_does() -> None:
    adapted = attach(MODELS["roberta"](), PiSSA(r=4, alpha=6.0, target="query,value"))
    other = peft.get_peft_model(MODELS["roberta"](), theirs("pissa")).base_model.model
    for layer in adapted.layers:
        module = other.get_submodule(layer.site.path)
        product = module.lora_B.default.weight @ module.lora_A.default.weight
        assert off(layer.lora_B @ layer.lora_A, product) < 1e-5
        assert off(layer.site.module.weight, module.base_layer.weight) < 1e-5


@torch.no_grad()
def test_the_model_starts_as_the_base_whose_principal_part_trains() -> None:
    model, batch = MODELS["roberta"](), inputs("roberta")
    before = model(**batch).logits
    weight = model.roberta.encoder.layer[0].attention.self.query.weight.clone()
    adapted = attach(model, PiSSA(r=4))
    assert off(model(**batch).logits, before) < 1e-5
    U, S, V = torch.linalg.svd(weight)
    layer = adapted.layers[0]
    assert off(layer.delta_weight(), U[:, :4] * S[:4] @ V[:4]) < 1e-5
    assert off(layer.site.module.weight, U[:, 4:] * S[4:] @ V[4:]) < 1e-5


def test_the_signs_of_singular_vectors_are_settled() -> None:
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    U, S, V = singular(weight)
    assert (U.sum(0) >= 0).all() and off(U * S @ V, weight) < 1e-5
    assert singular(weight.bfloat16())[0].dtype == torch.float32
