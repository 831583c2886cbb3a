"""RandLoRA against PEFT on PEFT's random matrices, and what maps share."""

import peft
import pytest
import torch

from tests.support.models import MODELS
from tests.support.parity import compare, off, pair
from variants import RandLoRA, attach


@pytest.mark.parametrize("maps", [["query", "value"], ["intermediate.dense"], ["output.dense"]], ids=",".join)
def test_equals_peft(maps) -> None:
    """PEFT flattens both in the order (rank, base), so that base j of ours is its columns j, j + n, ... there."""
    made = pair(
        "roberta",
        RandLoRA(r=5, alpha=20.0, target=",".join(maps)),
        peft.RandLoraConfig(r=5, randlora_alpha=20, target_modules=maps),
    )
    for layer in made.ours.layers:
        A, B = (getattr(made.theirs.base_model, f"randlora_{name}")["default"] for name in "AB")
        (long, r, n), short = layer.bases.B.shape, layer.bases.A.shape[1]
        layer.bases.A.copy_(A[:, 0, :short])
        layer.bases.B.copy_(B[:long, :n].reshape(long, r, n))
    found = compare(made)
    assert max(found.values()) < 1e-5, found


@torch.no_grad()
def test_is_the_papers_sum() -> None:
    layer = attach(MODELS["roberta"](), RandLoRA(r=3, alpha=6.0, target="up")).layers[0]
    layer.Lambda.normal_()
    layer.Gamma.normal_()
    A, B = layer.bases.A, layer.bases.B
    terms = [B[:, :, j] @ torch.diag(layer.Lambda[:, j]) @ A @ torch.diag(layer.Gamma[j]) for j in range(B.shape[2])]
    assert off(layer.delta_weight(), 2.0 * sum(terms)) < 1e-5 and len(terms) == 6
    assert torch.linalg.matrix_rank(layer.delta_weight()) == 16


def test_maps_of_two_sides_share_bases() -> None:
    layers = attach(MODELS["roberta"](), RandLoRA(r=4, target="up,down")).layers
    assert len({id(layer.bases) for layer in layers}) == 1, "whichever side the input is"
