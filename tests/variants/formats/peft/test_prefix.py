"""Prefix tuning in PEFT's format, both ways, on decoders that turn their keys, share them, or leave them be."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support import causal_models
from tests.support.peft_files import CONFIG, TENSORS, upstream
from tests.support.tiny import roberta, train, trained
from variants import LoRA, PrefixTuning, VariantError, attach, convert, formats
from variants.formats import peft
from variants.formats.native import save_adapter

P = 3
TURNED = ("llama", "qwen2", "phi3", "gpt_neox", "glm", "mistral")
PLAIN = ("gpt2", "opt", "bloom")
NORMED = ("qwen3", "olmo2")


def tiny(kind: str, dtype=torch.float32):
    """The same model at every call, one of grouped keys and values where the family has them."""
    return causal_models.tiny(kind).to(dtype)


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 50, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def logits(model) -> torch.Tensor:
    """Those of the text, without padding."""
    given = batch()
    return model(**given).logits[given["attention_mask"].bool()].float()


def by_peft(kind: str, folder, dtype=torch.float32):
    return upstream.PeftModel.from_pretrained(tiny(kind, dtype), folder).eval()


@pytest.mark.parametrize("kind", (*PLAIN, *TURNED, *NORMED))
def test_peft_computes_our_logits(kind, tmp_path) -> None:
    adapted = trained(tiny(kind), PrefixTuning(p=P))
    before = {key: tensor.clone() for key, tensor in adapted.state_dict().items()}
    expected = logits(adapted.model)
    assert (expected - logits(tiny(kind))).abs().max() > 1e-3
    peft.save(adapted, tmp_path)
    assert (logits(by_peft(kind, tmp_path)) - expected).abs().max() < 1e-5
    assert all(torch.equal(tensor, before[key]) for key, tensor in adapted.state_dict().items())
    assert torch.equal(logits(adapted.model), expected)


@pytest.mark.parametrize("kind", (*PLAIN, *TURNED))
def test_what_was_written_is_what_was_trained(kind, tmp_path) -> None:
    adapted = trained(tiny(kind), PrefixTuning(p=P))
    peft.save(adapted, tmp_path)
    again = formats.load(tiny(kind), tmp_path)
    assert type(again.variant) is PrefixTuning and again.variant.p == P
    for key, tensor in adapted.adapter.tensors().items():
        assert (again.adapter.tensors()[key] - tensor).abs().max() < 1e-5


@pytest.mark.parametrize("projection", [False, True], ids=["as it is", "by a perceptron"])
@pytest.mark.parametrize("kind", (*PLAIN, *TURNED))
def test_we_compute_the_logits_of_what_peft_wrote(kind, projection, tmp_path) -> None:
    config = upstream.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P, prefix_projection=projection)
    model = upstream.get_peft_model(tiny(kind), config).eval()
    train({key: p for key, p in model.named_parameters() if p.requires_grad}, 3)
    expected = logits(model)
    assert (expected - logits(tiny(kind))).abs().max() > 1e-3
    model.save_pretrained(tmp_path / "theirs")
    adapted = formats.load(tiny(kind), tmp_path / "theirs")
    assert (logits(adapted.model) - expected).abs().max() < 1e-5
    peft.save(adapted, tmp_path / "again")
    assert (logits(by_peft(kind, tmp_path / "again")) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_in_bf16_too(kind, tmp_path) -> None:
    adapted = trained(tiny(kind, torch.bfloat16), PrefixTuning(p=P))
    expected = logits(adapted.model)
    peft.save(adapted, tmp_path)
    assert torch.equal(logits(by_peft(kind, tmp_path, torch.bfloat16)), expected)
    again = formats.load(tiny(kind, torch.bfloat16), tmp_path)
    assert (logits(again.model) - expected).abs().max() < 0.02 * expected.abs().max()


def test_behind_a_cache_it_goes_on_as_pefts_whole_passes_do(tmp_path) -> None:
    """PEFT's own ``generate`` is no measure: in 0.21 it can leave its forward pass where positions are rotations."""
    adapted = trained(tiny("llama"), PrefixTuning(p=P))
    peft.save(adapted, tmp_path)
    theirs, ids = by_peft("llama", tmp_path), batch()["input_ids"][:1]
    ours = adapted.model.generate(input_ids=ids, max_new_tokens=6, do_sample=False, eos_token_id=None)
    for _ in range(6):
        with torch.no_grad():
            found = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        ids = torch.cat([ids, found[:, -1:].argmax(-1)], 1)
    assert torch.equal(ours, ids)


@pytest.mark.parametrize("kind", NORMED)
def test_keys_that_the_model_normalises_are_not_read(kind, tmp_path) -> None:
    peft.save(trained(tiny(kind), PrefixTuning(p=P)), tmp_path)
    adapted = trained(tiny(kind), LoRA())
    before = logits(adapted.model)
    with pytest.raises(VariantError, match="normalises keys, or changes them otherwise than by a rotation"):
        formats.load(adapted, tmp_path, name="theirs")
    assert list(adapted.adapters) == ["default"] and torch.equal(logits(adapted.model), before)


def test_options_are_pefts_own(tmp_path) -> None:
    """As PEFT itself would write them, but for what it leaves unset."""
    peft.save(trained(tiny("qwen2"), PrefixTuning(p=P)), tmp_path / "ours")
    by_peft("qwen2", tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    ours, theirs = (json.loads((tmp_path / name / CONFIG).read_text()) for name in ("ours", "theirs"))
    theirs["base_model_name_or_path"] = theirs["base_model_name_or_path"] or None
    assert {key: theirs.get(key, "missing") for key in ours} == ours
    one, other = (load_file(tmp_path / name / TENSORS) for name in ("ours", "theirs"))
    assert one.keys() == other.keys() == {"prompt_embeddings"}
    assert torch.equal(one["prompt_embeddings"], other["prompt_embeddings"])


def test_the_command_takes_it_there_and_back(tmp_path, capsys) -> None:
    tiny("llama").save_pretrained(tmp_path / "base")
    adapted = trained(tiny("llama"), PrefixTuning(p=P))
    expected = logits(adapted.model)
    save_adapter(adapted, tmp_path / "ours")
    for source, target, to in (("ours", "peft", "peft"), ("peft", "back", "ours")):
        words = [str(tmp_path / source), str(tmp_path / target), "--to", to]
        assert convert.main(words) == 2 and "give the model as well (--model)" in capsys.readouterr().err
        assert convert.main([*words, "--model", str(tmp_path / "base")]) == 0
    assert (logits(formats.load(tiny("llama"), tmp_path / "back").model) - expected).abs().max() < 1e-5
    words = [str(tmp_path / "ours"), str(tmp_path / "served"), "--to", "vllm", "--model", str(tmp_path / "base")]
    assert convert.main(words) == 2 and "vLLM" in capsys.readouterr().err


def test_what_peft_has_no_prefix_for_is_refused(tmp_path) -> None:
    with pytest.raises(VariantError, match="for causal language models, which RobertaForSequenceClassification is not"):
        peft.save(attach(roberta(), PrefixTuning(p=P)), tmp_path / "out")
    head = ["lm_head.weight"]
    with pytest.raises(VariantError, match="nothing beside a prefix, and here lm_head.weight trains"):
        peft.save(attach(tiny("llama"), PrefixTuning(p=P), head=head), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    peft.save(attach(tiny("gpt2"), PrefixTuning(p=P)), tmp_path / "gpt2")
    with pytest.raises(VariantError, match="for causal language models, which Roberta"):
        formats.load(roberta(), tmp_path / "gpt2")
    with pytest.raises(VariantError, match=r"prompt_embeddings is \(3, \d+\) in the file and \(3, \d+\) in the model"):
        formats.load(tiny("llama"), tmp_path / "gpt2")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("prompt_embeddings"), "lacks the matrix prompt_embeddings"),
        (lambda t: t.update(prompt_embeddings=t["prompt_embeddings"][0]), "lacks the matrix prompt_embeddings"),
        (lambda t: t.update({"base_model.lm_head.weight": torch.zeros(2)}), "has base_model.lm_head.weight, which no"),
    ],
)
def test_a_file_that_is_no_prefix_is_refused(change, message, tmp_path) -> None:
    peft.save(attach(tiny("gpt2"), PrefixTuning(p=P)), tmp_path)
    tensors = copy.deepcopy(load_file(tmp_path / TENSORS))
    change(tensors)
    save_file(tensors, tmp_path / TENSORS)
    with pytest.raises(VariantError, match=message):
        formats.load(tiny("gpt2"), tmp_path)
