"""MiLoRA's start against a dense formula."""

import pytest
import torch

from tests.support.models import MODELS
from tests.support.parity import off
from variants import MiLoRA, VariantError, attach


@torch.no_grad()
def test_the_minor_part_of_the_weight_trains() -> None:
    model = MODELS["roberta"]()
    weight = model.roberta.encoder.layer[1].attention.self.value.weight.clone()
    layer = attach(model, MiLoRA(r=3, alpha=5.0)).layers[-1]
    U, S, V = torch.linalg.svd(weight)
    assert off(layer.delta_weight(), U[:, -3:] * S[-3:] @ V[-3:]) < 1e-5
    assert off(layer.site.module.weight, U[:, :-3] * S[:-3] @ V[:-3]) < 1e-5
    assert off(layer.lora_A.norm(dim=1), layer.lora_B.norm(dim=0)) < 1e-5


def test_there_are_no_more_singular_values_than_the_map_is_wide() -> None:
    with pytest.raises(VariantError, match="r=17 is more than .* allows"):
        attach(MODELS["roberta"](), MiLoRA(r=17))
