"""LoHa against PEFT."""

import peft

from tests.support.parity import MAPS, compare, pair
from variants import LoHa


def test_equals_peft() -> None:
    theirs = peft.LoHaConfig(r=3, alpha=5, target_modules=MAPS["roberta"])
    found = compare(pair("roberta", LoHa(r=3, alpha=5.0, target="query,value"), theirs))
    assert max(found.values()) < 1e-5, found
