"""loralib's files: the authors' released one, fused maps as its MergedLinear, and what has no form there."""

import os
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F

from tests.support.tiny import Off, gpt2, logits, roberta, trained
from variants import LoRA, VariantError, attach, formats
from variants.formats import loralib

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:PEFT before 0.21:UserWarning")

RELEASED = os.environ.get("LORALIB_FILE")


@pytest.mark.slow
@pytest.mark.skipif(not RELEASED, reason="LORALIB_FILE does not name the authors' roberta_base_lora_mnli.bin")
def test_the_authors_released_file_loads_whole_and_writes_back_equal(tmp_path):
    base = dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)
    adapted = attach(roberta(**base), LoRA(r=8, alpha=16))
    theirs = torch.load(RELEASED, weights_only=True, map_location="cpu")
    own = adapted.state_dict()
    assert {key: t.shape for key, t in own.items()} == {key: t.shape for key, t in theirs.items()}
    assert adapted.count() | {"total": 0} == {"adapter": 294_912, "head": 592_899, "total": 0}
    formats.load(adapted, RELEASED, alpha=16, name="mnli")
    assert all(torch.equal(adapted.state_dict()[key], tensor) for key, tensor in theirs.items())
    assert loralib.save(adapted, tmp_path / "again.bin") == 16
    again = torch.load(tmp_path / "again.bin", weights_only=True)
    assert type(again) is type(theirs) and list(again) == list(theirs)
    assert all(torch.equal(again[key], theirs[key]) and again[key].dtype == theirs[key].dtype for key in theirs)


def test_a_file_of_separate_maps_comes_back(tmp_path):
    adapted = trained(roberta(), LoRA(r=4, alpha=6, per_layer={"*.0.*": {"r": 2, "alpha": 6.0}}))
    assert loralib.save(adapted, tmp_path / "lora.bin") == 6
    again = formats.load(roberta(), tmp_path / "lora.bin", alpha=6)
    assert torch.equal(logits(again.model), logits(adapted.model))


def test_alpha_is_the_one_that_loralibs_scaling_needs(tmp_path):
    """loralib knows alpha/r alone: alpha 6 over the root of 4 is 12 over 4."""
    adapted = trained(roberta(), LoRA(r=4, alpha=6, rslora=True))
    assert loralib.save(adapted, tmp_path / "lora.bin") == 12
    again = formats.load(roberta(), tmp_path / "lora.bin", alpha=12)
    assert torch.equal(logits(again.model), logits(adapted.model))


class Intruder:
    """A pickle that would run code when it is read."""

    def __reduce__(self):
        return os.mkdir, (os.environ["INTRUDED"],)


def merged_linear(a: torch.Tensor, b: torch.Tensor, enabled: list[bool]) -> torch.Tensor:
    """loralib's MergedLinear as it computes: A as channels of a grouped convolution, zeros for parts that are off."""
    groups = sum(enabled)
    found = F.conv1d(a[None], b[:, :, None], groups=groups)[0]
    width = len(b) // groups
    whole = torch.zeros(width * len(enabled), a.shape[1])
    whole[torch.tensor(enabled).repeat_interleave(width)] = found
    return whole


@pytest.mark.parametrize("target, enabled", [("q,v", [True, False, True]), ("q,k,v", [True, True, True])])
def test_a_fused_map_is_merged_linear(target, enabled, tmp_path):
    """Its weight as loralib would merge it is ours, and its file comes back."""
    adapted = trained(gpt2(), LoRA(r=2, alpha=6, target=target))
    expected = logits(adapted.model)
    alpha = loralib.save(adapted, tmp_path / "lora.bin")
    state = torch.load(tmp_path / "lora.bin", weights_only=True)
    again = formats.load(gpt2(), tmp_path / "lora.bin", alpha=alpha)
    assert torch.equal(logits(again.model), expected)
    plain = gpt2()
    with torch.no_grad():
        for i, block in enumerate(plain.transformer.h):
            a, b = (state[f"transformer.h.{i}.attn.c_attn.lora_{x}"] for x in "AB")
            assert a.shape == (2 * sum(enabled), 16) and b.shape == (16 * sum(enabled), 2)
            block.attn.c_attn.weight += alpha / 2 * merged_linear(a, b, enabled).t()
        plain.score.weight.copy_(state["score.weight"])
    assert (logits(plain) - expected).abs().max() < 1e-5


def test_the_authors_way_of_wrapping_a_state_dict_is_read(tmp_path):
    adapted = trained(gpt2(), LoRA(r=2, alpha=6))
    loralib.save(adapted, tmp_path / "lora.bin")
    state = torch.load(tmp_path / "lora.bin", weights_only=True)
    torch.save({"model_state_dict": state}, tmp_path / "wrapped.pt")
    again = formats.load(gpt2(), tmp_path / "wrapped.pt", alpha=6)
    assert torch.equal(logits(again.model), logits(adapted.model))


@pytest.mark.parametrize(
    "build, variant, message",
    [
        (roberta, Off(), "loralib has no form for off"),
        (roberta, LoRA(per_layer={"*.0.*": {"alpha": 3.0}}), "loralib has one alpha for all layers"),
        (gpt2, LoRA(target="k,v"), "does not say which slices of transformer.h.0.attn.c_attn it adapts"),
        (gpt2, LoRA(target="c_attn[0:16],c_attn[16:24]"), "must be equal parts of equal rank"),
    ],
)
def test_what_loralib_has_no_form_for_is_named_and_nothing_written(build, variant, message, tmp_path):
    with pytest.raises(VariantError, match=message):
        loralib.save(trained(build(), variant), tmp_path / "lora.bin")
    assert not list(tmp_path.iterdir())


SITE = "roberta.encoder.layer.0.attention.self.query"


@pytest.mark.parametrize(
    "content, message",
    [
        (OrderedDict({f"{SITE}.lora_A": torch.zeros(2, 16)}), f"has only lora_A of {SITE}"),
        (OrderedDict({"x.lora_A": torch.zeros(2, 16), "x.lora_B": torch.zeros(16, 2)}), "adapts x, which is no linear"),
        (OrderedDict({f"{SITE}.lora_A": torch.zeros(4, 16), f"{SITE}.lora_B": torch.zeros(16, 3)}), "fit neither"),
        (OrderedDict({"a": torch.zeros(2)}), "has no lora_A and lora_B"),
        ([1, 2], "holds something other than a state dict"),
    ],
)
def test_a_file_that_is_not_loralibs_is_named(content, message, tmp_path):
    torch.save(content, tmp_path / "lora.bin")
    with pytest.raises(VariantError, match=message):
        formats.load(roberta(), tmp_path / "lora.bin", alpha=1)


def test_alpha_must_be_told_and_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("INTRUDED", str(tmp_path / "intruded"))
    loralib.save(trained(roberta(), LoRA()), tmp_path / "lora.bin")
    with pytest.raises(VariantError, match="loralib files do not hold alpha"):
        formats.load(roberta(), tmp_path / "lora.bin")
    torch.save({"x": Intruder()}, tmp_path / "pickle.bin")
    with pytest.raises(VariantError, match="is no loralib file"):
        formats.load(roberta(), tmp_path / "pickle.bin", alpha=1)
    assert not (tmp_path / "intruded").exists()
    (tmp_path / "text.bin").write_text("no pickle")
    with pytest.raises(VariantError, match="is no loralib file"):
        formats.load(roberta(), tmp_path / "text.bin", alpha=1)
    with pytest.raises(VariantError, match="is no adapter"):
        formats.load(roberta(), tmp_path)
