"""HRA against PEFT, which multiplies the reflections one by one; ours is the low-rank product that they make."""

import peft
import torch

from tests.support.models import MODELS
from tests.support.parity import MAPS, compare, off, pair
from variants import HRA, attach


def test_equals_peft() -> None:
    theirs = peft.HRAConfig(r=6, target_modules=MAPS["roberta"])
    found = compare(pair("roberta", HRA(pairs=3, target="query,value"), theirs))
    assert max(found.values()) < 1e-5, found


@torch.no_grad()
def test_reflections_as_one_low_rank_product() -> None:
    layer = attach(MODELS["gpt2"](), HRA(pairs=2)).layers[0]  # on a slice
    assert layer.delta_weight().abs().max() < 1e-6, "pairs undo each other"
    layer.u.normal_()
    chain = torch.eye(16)
    for u in layer.u.mT:
        chain = chain @ (torch.eye(16) - 2 * torch.outer(u, u) / u.square().sum())
    assert off(layer.site.weight() + layer.delta_weight(), layer.site.weight() @ chain) < 1e-5
    assert len(layer.low_rank().A) == 4
