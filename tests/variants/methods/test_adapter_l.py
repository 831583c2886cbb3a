"""Lin's adapters against their formula on a block written out."""

from __future__ import annotations

import pytest
from torch import Tensor

from tests.support.models import MODELS, inputs
from tests.support.transformer_reference import (
    bottleneck,
    close,
    gpt2_reference,
    logits,
    norm,
    roberta_reference,
    trained,
)
from variants import AdapterL


@pytest.mark.parametrize("name", ["roberta", "gpt2"])
def test_adapter_l_is_lins(name) -> None:
    model, batch = MODELS[name](), inputs(name)
    t = trained(model, AdapterL(r=4)).adapter.tensors()

    def add(where: str, h: Tensor) -> Tensor:
        own = {"own.weight": t[f"{where}.norm_weight"], "own.bias": t[f"{where}.norm_bias"]}
        return h + bottleneck(t, where, norm(own, "own", h, 1e-5))

    if name == "gpt2":
        expected = gpt2_reference(model, batch, end=lambda i, h: add(f"transformer.h.{i}", h))
    else:
        expected = roberta_reference(
            model, batch, end=lambda i, u, ln: add(f"roberta.encoder.layer.{i}.output.LayerNorm", ln(u))
        )
    assert close(logits(model, batch), expected)
