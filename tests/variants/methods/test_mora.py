"""MoRA against its matrix, built block by block."""

import math

import pytest
import torch

from tests.support.models import MODELS
from tests.support.parity import adapter_size, off
from variants import LoRA, MoRA, attach


@torch.no_grad()
@pytest.mark.parametrize(("name", "target"), [("roberta", "q"), ("roberta", "up"), ("roberta", "down"), ("gpt2", "v")])
def test_is_a_matrix_of_rotated_copies_of_m(name, target) -> None:
    layer = attach(MODELS[name](), MoRA(r=2, target=target)).layers[0]
    layer.M.normal_()
    n, out, size = layer.site.in_features, layer.site.out_features, len(layer.M)
    assert size == max(2, round(math.sqrt((n + out) * 2)) // 2 * 2)
    pieces, half = math.ceil(n / size), size // 2
    dense = torch.zeros(pieces * size, n)
    for i in range(pieces):
        rotation = torch.zeros(size, size)
        for k in range(half):  # plane of features k and k + half
            angle = i / 10000 ** (k / half)
            rotation[k, k] = rotation[k + half, k + half] = math.cos(angle)
            rotation[k, k + half], rotation[k + half, k] = -math.sin(angle), math.sin(angle)
        block = layer.M @ rotation
        for column in range(size):  # beyond its end the input begins anew
            dense[i * size : (i + 1) * size, (i * size + column) % n] += block[:, column]
    rows = torch.arange(out) % len(dense)
    assert off(layer.delta_weight(), dense[rows]) < 1e-5


def test_has_as_many_parameters_as_lora() -> None:
    mora, lora = (adapter_size("roberta-base", kind(r=8)) for kind in (MoRA, LoRA))
    assert mora == 24 * 110**2 and abs(mora / lora - 1) < 0.02
