"""Houlsby's adapters against their formula on a block written out."""

from __future__ import annotations

import pytest
import torch.nn.functional as F

from tests.support.models import MODELS, inputs
from tests.support.transformer_reference import bottleneck, close, logits, roberta_reference, trained
from variants import AdapterH, VariantError, attach


def test_adapter_h_is_houlsbys() -> None:
    model, batch = MODELS["roberta"](), inputs("roberta")
    adapted = trained(model, AdapterH(r=4))
    t, at = adapted.adapter.tensors(), "roberta.encoder.layer"
    expected = roberta_reference(
        model,
        batch,
        after_attention=lambda i, y: y + bottleneck(t, f"{at}.{i}.attention.output.dense", y, F.gelu),
        after_ffn=lambda i, y: y + bottleneck(t, f"{at}.{i}.output.dense", y, F.gelu),
    )
    assert close(logits(model, batch), expected)


def test_layer_norms_train_on_request() -> None:
    plain, with_norms = (attach(MODELS["roberta"](), AdapterH(r=4, norms=on)).count() for on in (False, True))
    assert with_norms["adapter"] - plain["adapter"] == 2 * 2 * 2 * 16  # blocks, LayerNorms of each, weight and bias, d
    one = attach(MODELS["roberta"](), AdapterH(r=4, norms=True, layers="1"))
    assert {name for name in one.adapter.in_place if name not in one.head} == {
        f"roberta.encoder.layer.1.{part}output.LayerNorm.{kind}"
        for part in ("attention.", "")
        for kind in ("weight", "bias")
    }
    with pytest.raises(VariantError, match="no LayerNorm to train"):
        attach(MODELS["llama"](), AdapterH(r=4, norms=True))
