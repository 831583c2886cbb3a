"""FT-Top2 trains the last blocks."""

from __future__ import annotations

import pytest

from tests.support.models import MODELS
from variants import FTTop2, VariantError, attach


def test_ft_top2_trains_the_last_two_blocks() -> None:
    adapted = attach(MODELS["gpt2"](n_layer=4), FTTop2())
    blocks = {name.split(".")[2] for name in adapted.adapter.in_place if name not in adapted.head}
    assert blocks == {"2", "3"}
    with pytest.raises(VariantError, match="top=5 is more than the 4 blocks"):
        attach(MODELS["gpt2"](n_layer=4), FTTop2(top=5))
