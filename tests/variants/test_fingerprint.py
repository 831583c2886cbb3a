"""The base model of a file is recognised in any precision, and another is noticed (peft #1932, #2421)."""

import json
import warnings

import pytest
import torch

from tests.support.tiny import gpt2, roberta, trained
from variants import LoRA, VariantError, load
from variants.fingerprint import alike, fingerprint, sketch
from variants.formats.native import CONFIG, read_adapter, save_adapter

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@pytest.mark.parametrize("trained_on", DTYPES)
def test_one_base_in_every_precision(trained_on, tmp_path):
    """Of the dtype it is computed in, and of the dtype that it was stored in before."""
    folder = save_adapter(trained(roberta().to(trained_on), LoRA(r=2)), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for used_on in DTYPES:
            load(roberta().to(used_on), folder, strict=True)
            if trained_on.itemsize > 2 or used_on.itemsize == 2:  # stored in 16 bits, then widened
                load(roberta().to(used_on).float(), folder, strict=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_another_base_is_refused_in_every_precision(dtype, tmp_path):
    folder = save_adapter(trained(roberta(), LoRA(r=2)), tmp_path)
    other = roberta().to(dtype)
    with torch.no_grad():
        other.roberta.encoder.layer[1].output.dense.weight[3] += 0.5
    for model in (other, roberta(seed=1).to(dtype)):
        with pytest.raises(VariantError, match="was trained on another base model"):
            load(model, folder, strict=True)


def test_a_little_more_training_of_a_full_precision_base_is_noticed(tmp_path):
    folder = save_adapter(trained(roberta(), LoRA(r=2)), tmp_path)
    tuned = roberta()
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter *= 1 + 0.002 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    with pytest.raises(VariantError, match="was trained on another base model"):
        load(tuned, folder, strict=True)


def test_old_files_have_no_sketch_and_are_read(tmp_path):
    folder = save_adapter(trained(roberta(), LoRA(r=2)), tmp_path)
    config = json.loads((folder / CONFIG).read_text())
    for key in ("sketch", "tied"):
        del config["base"][key]
    del config["code"]
    (folder / CONFIG).write_text(json.dumps(config))
    load(roberta().bfloat16(), folder, strict=True)
    with pytest.warns(UserWarning, match="was trained on another base model"):
        load(roberta().half(), folder)
    assert read_adapter(folder)[0]["base"]["fingerprint"] == fingerprint(roberta(), set(config["head"]))


def test_sketches_of_other_text_are_like_nothing():
    one = sketch(gpt2().half())
    assert alike(one, sketch(gpt2())) and not alike(one, sketch(roberta().half()))
    for text in (None, "", "x", "é", one[:-4], one.lower()):
        assert not alike(one, text) and not alike(text, one)
    assert not alike(sketch(gpt2()), sketch(gpt2())), "in full precision the fingerprint decides"
