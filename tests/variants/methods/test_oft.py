"""OFT against PEFT, and the rotation that it makes."""

import peft
import pytest
import torch

from tests.support.models import MODELS
from tests.support.parity import MAPS, compare, off, pair
from variants import OFT, VariantError, attach
from variants.methods.oft import cayley


def test_equals_peft() -> None:
    """PEFT's default is the polynomial."""
    theirs = peft.OFTConfig(r=0, oft_block_size=4, target_modules=MAPS["roberta"])
    found = compare(pair("roberta", OFT(block=4, terms=5, target="query,value"), theirs))
    assert max(found.values()) < 1e-5, found


@torch.no_grad()
def test_the_weight_is_rotated_by_blocks() -> None:
    layer = attach(MODELS["roberta"](), OFT(block=6)).layers[0]  # 6 does not divide 16
    layer.Q.upper.normal_()
    Q = layer.Q()
    assert Q.shape == (4, 4, 4) and torch.equal(Q, -Q.mT)
    eye = torch.eye(4)
    R = torch.block_diag(*[(eye + q) @ torch.linalg.inv(eye - q) for q in Q])
    assert off(R @ R.mT, torch.eye(16)) < 1e-5
    assert off(layer.site.weight() + layer.delta_weight(), layer.site.weight() @ R.mT) < 1e-5
    x = torch.randn(2, 3, 16)
    assert off(layer(x, layer.site.times(x)), layer.site.times(x @ R)) < 1e-5


def test_terms() -> None:
    Q = torch.randn(3, 3) / 20
    Q = Q - Q.mT
    expected = 2 * Q + 2 * Q @ Q + Q @ Q @ Q
    assert off(cayley(Q, 4), expected) < 1e-6 and off(cayley(Q, 12), cayley(Q)) < 1e-6
    with pytest.raises(VariantError, match="terms must be 0 or at least 3, not 2"):
        OFT(terms=2)
