"""DeLoRA against PEFT, and what bounds its update."""

import peft
import pytest
import torch

from tests.support.models import MODELS
from tests.support.parity import MAPS, compare, off, pair
from variants import DeLoRA, VariantError, attach


def test_equals_peft() -> None:
    theirs = peft.DeloraConfig(r=4, delora_lambda=3, target_modules=MAPS["roberta"])
    found = compare(pair("roberta", DeLoRA(r=4, strength=3.0, target="query,value"), theirs))
    assert max(found.values()) < 1e-5, found


@torch.no_grad()
def test_the_strength_bounds_the_update_whatever_the_factors_are() -> None:
    layer = attach(MODELS["roberta"](), DeLoRA(r=4, strength=3.0)).layers[0]
    layer.A.normal_(0, 50)
    layer.B.normal_(0, 50)
    norms = layer.site.weight().norm(dim=0)
    assert off(layer.norm, norms) < 1e-6
    assert (layer.delta_weight() / norms).norm() <= 3.0 + 1e-5
    with pytest.raises(VariantError, match="strength must be above 0, not -1"):
        DeLoRA(strength=-1)
