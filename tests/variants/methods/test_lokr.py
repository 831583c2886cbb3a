"""LoKr against PEFT, and how sides are cut."""

import peft
import pytest
from peft.tuners.lokr.layer import factorization

from tests.support.parity import compare, pair
from variants import LoKr, VariantError
from variants.methods.lokr import factors


@pytest.mark.parametrize("factor", [-1, 2])
def test_equals_peft(factor) -> None:
    maps = ["intermediate.dense"]
    theirs = peft.LoKrConfig(r=2, alpha=5, decompose_factor=factor, target_modules=maps)
    found = compare(pair("roberta", LoKr(r=2, alpha=5.0, factor=factor, target=maps[0]), theirs))
    assert max(found.values()) < 1e-5, found


@pytest.mark.parametrize("factor", [-1, 2, 3, 4, 8, 16])
def test_sides_are_cut_as_peft_cuts_them(factor) -> None:
    for n in (1, 7, 12, 16, 60, 64, 250, 360, 768, 1024, 3072):
        assert factors(n, factor) == factorization(n, factor), n


def test_a_factor_is_a_side() -> None:
    with pytest.raises(VariantError, match="factor must be -1 or at least 1, not 0"):
        LoKr(factor=0)
