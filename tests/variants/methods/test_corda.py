"""CorDA against its dense formula."""

import pytest
import torch

from tests.support.models import MODELS, inputs
from tests.support.parity import off
from tests.variants.methods.test_eva import stacked_inputs
from tests.variants.training.test_batches import batches
from variants import CorDA, attach


@torch.no_grad()
@pytest.mark.parametrize("mode", ["ipm", "kpm"])
def test_a_part_of_the_weight_by_what_data_excite_trains(mode) -> None:
    model, batch = MODELS["roberta"](), inputs("roberta")
    before = model(**batch).logits
    weight = model.roberta.encoder.layer[0].attention.self.query.weight.clone()
    adapted = attach(model, CorDA(r=3, mode=mode))
    x = stacked_inputs(adapted)[adapted.layers[0].site.path].double()
    with torch.enable_grad():
        adapted.init_from_data(batches("roberta"))
    assert off(model(**batch).logits, before) < 1e-4
    C = x.mT @ x
    C = C / C.diagonal().mean() + 0.01 * torch.eye(16)
    U, S, V = torch.linalg.svd(weight.double() @ C)
    part = slice(0, 3) if mode == "ipm" else slice(13, 16)
    expected = U[:, part] * S[part] @ V[part] @ torch.linalg.inv(C)
    layer = adapted.layers[0]
    assert off(layer.delta_weight(), expected.float()) < 1e-3 * expected.abs().max()
    assert off(layer.site.module.weight, weight - layer.delta_weight()) < 1e-6
