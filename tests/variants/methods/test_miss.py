"""MiSS against PEFT."""

import peft
import pytest
import torch

from tests.support.models import MODELS
from tests.support.parity import MAPS, compare, off, pair
from variants import MiSS, attach


@pytest.mark.parametrize("r", [4, 5])
def test_equals_peft(r) -> None:
    """Where r does not divide the input's width, its last piece is short."""
    theirs = peft.MissConfig(r=r, target_modules=MAPS["roberta"])
    found = compare(pair("roberta", MiSS(r=r, target="query,value"), theirs))
    assert max(value for key, value in found.items() if key != "merged" or r == 4) < 1e-5, found


@torch.no_grad()
def test_all_pieces_share_one_shard() -> None:
    layer = attach(MODELS["roberta"](), MiSS(r=5)).layers[0]
    layer.D.normal_()
    delta = layer.delta_weight()
    assert all(off(delta[:, j], layer.D[j % 5]) < 1e-6 for j in range(16))
