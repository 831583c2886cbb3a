"""VeRA's banks in PEFT's form: made from the seed, or stored."""

import warnings

import pytest

from tests.support.peft_files import LORA, by_peft, upstream, written_by_peft
from tests.support.tiny import logits, roberta
from variants import formats
from variants.formats import peft

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:PEFT before 0.21:UserWarning")


def test_matrices_that_an_older_peft_would_not_find_are_warned_of(tmp_path):
    """Those that PEFT itself makes from its seed come back in any version, without a warning."""
    written_by_peft(roberta(), upstream.VeraConfig(r=5, projection_prng_key=9, **LORA), tmp_path / "theirs")
    theirs = formats.load(roberta(), tmp_path / "theirs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        peft.save(theirs, tmp_path / "again")
    assert (logits(by_peft(roberta(), tmp_path / "again")) - logits(theirs.model)).abs().max() < 1e-5
    theirs.layers[0].bank.A.mul_(2)
    with pytest.warns(UserWarning, match="PEFT before 0.21 ignores VeRA's stored random matrices"):
        peft.save(theirs, tmp_path / "other")
