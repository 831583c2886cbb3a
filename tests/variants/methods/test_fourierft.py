"""FourierFT against PEFT, its size and its places."""

import peft
import pytest
import torch

from tests.support.models import MODELS
from tests.support.parity import MAPS, adapter_size, compare, pair
from variants import FourierFT, VariantError, attach


def test_equals_peft() -> None:
    theirs = peft.FourierFTConfig(n_frequency=30, scaling=90.0, target_modules=MAPS["roberta"])
    found = compare(pair("roberta", FourierFT(n=30, alpha=90.0, target="query,value"), theirs))
    assert max(found.values()) < 1e-5, found


def test_published_size() -> None:
    """0.024M on q and v of RoBERTa-base with n = 1000."""
    assert adapter_size("roberta-base", FourierFT()) == 24_000


def test_start_and_places() -> None:
    zero = attach(MODELS["roberta"](), FourierFT(n=30, init="zero")).layers
    gaussian = attach(MODELS["roberta"](), FourierFT(n=30), seed=1).layers
    assert not zero[0].c.any() and gaussian[0].c.std() > 0.5
    assert torch.equal(zero[0].places, gaussian[1].places), "not by the run's seed, nor by the map"
    with pytest.raises(VariantError, match="n=257 is more than .* allows: its matrix has 256 entries"):
        attach(MODELS["roberta"](), FourierFT(n=257))
