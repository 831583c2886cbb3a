"""BOFT against PEFT, whose product of factors is a GPU's, and against dense matrices."""

import peft
import pytest
import torch

from tests.support.models import MODELS, inputs
from tests.support.parity import MAPS, off
from variants import BOFT, VariantError, attach


class Kernel:
    """What PEFT compiles for GPUs, in PyTorch: the blocks (m, n/b, b, b) of each factor on the diagonal of a matrix."""

    @staticmethod
    def forward(blocks: torch.Tensor) -> list[torch.Tensor]:
        """[(m, n, n)]"""
        return [torch.stack([torch.block_diag(*factor) for factor in blocks])]


@torch.no_grad()
@pytest.mark.parametrize(("b", "m"), [(4, 1), (4, 2), (2, 3), (8, 2)])
def test_equals_peft(b, m, monkeypatch) -> None:
    """PEFT trains whole blocks of which the skew part counts, and has the other sign in Cayley's transform."""
    monkeypatch.setattr("peft.tuners.boft.layer.get_fbd_cuda", lambda: Kernel)
    config = peft.BOFTConfig(boft_block_size=b, boft_n_butterfly_factor=m, target_modules=MAPS["roberta"])
    adapted = attach(MODELS["roberta"](), BOFT(block=b, factors=m, target="query,value"))
    theirs = peft.get_peft_model(MODELS["roberta"](), config).eval()
    for layer in adapted.layers:
        layer.Q.upper.normal_(0, 0.3)
        layer.s.add_(torch.randn_like(layer.s), alpha=0.1)
        module = theirs.base_model.model.get_submodule(layer.site.path)
        module.boft_R.default.copy_(-layer.Q())
        module.boft_s.default.copy_(layer.s[:, None])
    batch = inputs("roberta")
    plain = adapted.model(**batch).logits
    assert off(plain, theirs(**batch).logits) < 1e-5
    adapted.merge()
    assert off(adapted.model(**batch).logits, plain) < 1e-5
    merged = dict(theirs.merge_and_unload().named_parameters())
    for layer in adapted.layers:
        assert off(layer.site.module.weight, merged[f"{layer.site.path}.weight"]) < 1e-5


def permutation(n: int, b: int, i: int) -> torch.Tensor:
    """The matrix that brings features 2^i·b/2 apart together: within chunks of 2^i·b, even groups of b/2, then odd."""
    P, row = torch.zeros(n, n), 0
    for start in range(0, n, b * 2**i):
        groups = [range(start + k, start + k + b // 2) for k in range(0, b * 2**i, b // 2)]
        for group in (*groups[::2], *groups[1::2]):
            for column in group:
                P[row, column] = 1
                row += 1
    return P


@torch.no_grad()
@pytest.mark.parametrize(("b", "m"), [(4, 3), (2, 4), (8, 2), (4, 1)])
def test_is_the_product_of_dense_factors(b, m) -> None:
    layer = attach(MODELS["roberta"](), BOFT(block=b, factors=m)).layers[0]
    layer.Q.upper.normal_()
    layer.s.normal_()
    eye, R = torch.eye(b), torch.eye(16)
    assert layer.Q.upper.shape == (m, 16 // b, b * (b - 1) // 2)
    for i, Q in enumerate(layer.Q()):
        P = permutation(16, b, i)
        R = P @ torch.block_diag(*[(eye + q) @ torch.linalg.inv(eye - q) for q in Q]) @ P.mT @ R
    W = layer.site.weight()
    assert off(W + layer.delta_weight(), layer.s[:, None] * (W @ R.mT)) < 1e-4
    x, bias = torch.randn(2, 3, 16), layer.site.bias()
    assert off(layer(x, layer.site.times(x) + bias), layer.s * layer.site.times(x @ R) + bias) < 1e-4


def test_factors_are_fewer_where_the_input_does_not_fall_into_them() -> None:
    assert attach(MODELS["roberta"](), BOFT(block=4, factors=5)).layers[0].Q.upper.shape[0] == 3
    with pytest.raises(VariantError, match="factors must be at least 1, not 0"):
        BOFT(factors=0)
