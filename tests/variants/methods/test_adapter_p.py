"""Pfeiffer's adapters against their formula on a block written out."""

from __future__ import annotations

from tests.support.models import MODELS, inputs
from tests.support.transformer_reference import bottleneck, close, gpt2_reference, logits, roberta_reference, trained
from variants import AdapterP


def test_adapter_p_is_pfeiffers_before_and_after_the_layer_norm() -> None:
    model, batch = MODELS["roberta"](), inputs("roberta")
    t = trained(model, AdapterP(r=4)).adapter.tensors()
    expected = roberta_reference(
        model,
        batch,
        end=lambda i, u, ln: ln(u + bottleneck(t, f"roberta.encoder.layer.{i}.output.LayerNorm", ln(u))),
    )
    assert close(logits(model, batch), expected)


def test_adapter_p_without_a_last_layer_norm() -> None:
    model, batch = MODELS["gpt2"](), inputs("gpt2")
    t = trained(model, AdapterP(r=4)).adapter.tensors()
    expected = gpt2_reference(model, batch, end=lambda i, h: h + bottleneck(t, f"transformer.h.{i}", h))
    assert close(logits(model, batch), expected)
