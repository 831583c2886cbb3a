"""BitFit trains the biases of the backbone."""

from __future__ import annotations

import pytest

from tests.support.models import MODELS
from variants import BitFit, VariantError, attach


def test_bitfit_trains_every_bias_of_the_backbone() -> None:
    adapted = attach(model := MODELS["roberta"](), BitFit())
    names = {name for name in adapted.adapter.in_place if name not in adapted.head}
    assert names == {n for n, _ in model.named_parameters() if n.startswith("roberta.") and n.endswith(".bias")}
    assert adapted.count()["adapter"] == 2 * (6 * 16 + 24 + 2 * 16 - 16) + 16  # q k v o, up, down, 2 LN; embeddings' LN
    with pytest.raises(VariantError, match="has no bias vectors"):
        attach(MODELS["llama"](attention_bias=False, mlp_bias=False), BitFit())
