"""New tokens: their rows train, no other row moves, and files of every kind know them."""

from __future__ import annotations

import copy
import json
import pickle

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.acceleration.frozen_precision import lower_frozen
from modules.pretraining.causal_lm import word_tokenizer
from tests.support.causal_models import tiny
from variants import LoRA, VariantError, add_tokens, attach, load
from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.stack import Stack
from variants.formats import peft as peft_format
from variants.formats.native import save_adapter
from variants.merge import merge
from variants.new_tokens import described

WORDS = [f"w{i}" for i in range(40)]
NEW = ["<think>", "</think>"]
TIED = {False: "llama", True: "gemma3_text"}


def small(tied: bool, **changes) -> tuple[nn.Module, object]:
    """A model with embeddings for its tokenizer and no more, unless so said."""
    tokenizer = word_tokenizer(WORDS)
    sizes = {"vocab_size": len(tokenizer)} | changes
    model = tiny(TIED[tied], **sizes)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    return model, tokenizer


def adapted_with_tokens(tied: bool, **changes) -> tuple[AdaptedModel, Tensor, object]:
    model, tokenizer = small(tied, **changes)
    assert add_tokens(model, tokenizer, NEW) == 2
    ids = torch.tensor([[5, len(tokenizer) - 2, 7, len(tokenizer) - 1, 9, 4], [3, 4, 5, 6, 7, 8]])
    return attach(model, LoRA(r=2, alpha=2.0)), ids, tokenizer


def trained(tied: bool, steps: int = 3, **changes) -> tuple[AdaptedModel, Tensor, object]:
    adapted, ids, tokenizer = adapted_with_tokens(tied, **changes)
    optimizer = torch.optim.AdamW(adapted.param_groups(0.05, weight_decay=0.1))
    for _ in range(steps):
        scores = adapted.model(input_ids=ids).logits
        F.cross_entropy(scores[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return adapted, ids, tokenizer


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("tied", TIED)
def test_new_rows_alone_train_and_old_ones_stay_bit_by_bit(tied: bool) -> None:
    """Against a model whose embeddings are written; weight decay and Adam's moments reach no old row."""
    before, _ = small(tied)
    adapted, ids, tokenizer = trained(tied)
    model, first = adapted.model, len(tokenizer) - 2
    old = dict(before.named_parameters())
    for name, parameter in model.named_parameters():
        if name in old:
            own = parameter[:first] if "embed_tokens" in name or "lm_head" in name else parameter
            assert torch.equal(own, old[name]), name
    names = {name for name in adapted.trained() if "lora" not in name}
    expected = {"model.embed_tokens.new_tokens.rows"} | (set() if tied else {"lm_head.new_tokens.rows"})
    assert names == expected == set(adapted.head)
    width = model.config.hidden_size
    assert adapted.count()["head"] == 2 * width * len(expected)
    plain = copy.deepcopy(model)
    for module in (plain.get_input_embeddings(), plain.get_output_embeddings()):
        rows = module.new_tokens.rows.detach()
        module._forward_hooks.clear()
        module.weight.data[first:] = rows
    assert torch.allclose(logits(plain, ids), logits(model, ids), atol=1e-5)
    start = old["model.embed_tokens.weight"].mean(0)
    moved = model.get_input_embeddings().new_tokens.rows.detach() - start
    assert (moved.abs().amax(1) > 0.01).all(), "each began at the mean of the old ones and moved"


@pytest.mark.parametrize("tied", TIED)
def test_files(tied: bool, tmp_path) -> None:
    adapted, ids, _ = trained(tied)
    expected = logits(adapted.model, ids)
    save_adapter(adapted, tmp_path / "ours")
    assert json.loads((tmp_path / "ours/adapter.json").read_text())["new_tokens"]["tokens"] == NEW
    fresh = small(tied)[0]
    again = load(fresh, tmp_path / "ours", strict=True)
    assert torch.equal(logits(fresh, ids), expected)
    again.merge()
    fresh.save_pretrained(tmp_path / "merged")
    plain = type(fresh).from_pretrained(tmp_path / "merged")
    assert described(plain) is None and torch.allclose(logits(plain, ids), expected, atol=1e-5)
    again.unmerge()
    save_adapter(again, tmp_path / "again")
    load(small(tied)[0], tmp_path / "again", strict=True)  # the base is what it was: its fingerprint too


@pytest.mark.parametrize("tied", TIED)
def test_merged_with_its_tokenizer(tied: bool, tmp_path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = small(tied)
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    adapted, ids, _ = trained(tied)
    save_adapter(adapted, tmp_path / "adapter")
    merge(tmp_path / "adapter", str(tmp_path / "base"), tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert words.convert_tokens_to_ids(NEW) == [len(words) - 2, len(words) - 1]
    assert torch.allclose(logits(plain, ids), logits(adapted.model, ids), atol=1e-5)


@pytest.mark.parametrize("tied", TIED)
def test_peft_reads_them(tied: bool, tmp_path) -> None:
    adapted, ids, tokenizer = trained(tied)
    peft_format.save(adapted, tmp_path)
    base, _ = small(tied)
    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    assert torch.allclose(logits(theirs, ids), logits(adapted.model, ids), atol=1e-5)


def test_rows_to_spare_are_used() -> None:
    """A vocabulary that is padded does not grow; a token that is known is not new."""
    model, tokenizer = small(False, vocab_size=64)
    first = len(tokenizer)
    assert add_tokens(model, tokenizer, [*NEW, WORDS[0]], special=True) == 2
    assert model.get_input_embeddings().num_embeddings == 64
    assert described(model) == {"tokens": NEW, "first": first, "size": 64}
    assert add_tokens(small(False)[0], tokenizer, NEW) == 0
    model.eval()
    assert logits(model, torch.tensor([[first, first + 1, first + 2]])).shape[-1] == 64


def test_copies_adapters_and_low_precision(tmp_path) -> None:
    adapted, ids, _ = trained(True)
    expected = logits(adapted.model, ids)
    for twin in (copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted))):
        twin.model.get_input_embeddings().new_tokens.rows.data.zero_()
        assert not torch.equal(logits(twin.model, ids), expected)
        assert torch.equal(logits(adapted.model, ids), expected)
    adapted.add("other", LoRA(r=2), 1)
    adapted.model.get_input_embeddings().new_tokens.rows.data.zero_()
    adapted.switch("default")
    assert torch.equal(logits(adapted.model, ids), expected), "each adapter has rows of its own"
    model, tokenizer = small(True)
    add_tokens(model, tokenizer, NEW)
    lower_frozen(model, torch.bfloat16)
    low = attach(model, LoRA(r=2))
    assert low.trained()["model.embed_tokens.new_tokens.rows"].dtype == torch.float32
    assert logits(model, ids).dtype == torch.bfloat16


def test_what_cannot_be(tmp_path) -> None:
    adapted, _, tokenizer = adapted_with_tokens(False)
    with pytest.raises(VariantError, match="carries adapters already: add tokens first"):
        add_tokens(adapted.model, tokenizer, ["more"])
    model, tokenizer = small(False)
    add_tokens(model, tokenizer, NEW)
    with pytest.raises(VariantError, match="new tokens already: name all of them at once"):
        add_tokens(model, tokenizer, ["more"])
    with pytest.raises(VariantError, match="Sequential is no transformers model"):
        add_tokens(nn.Sequential(), tokenizer, ["most"])
    adapted.add("other", LoRA(r=2, alpha=2.0), 1)
    with pytest.raises(VariantError, match="lora cannot be stacked: rows of new tokens"):
        Stack(adapted, ["default", "other"])
    with pytest.raises(VariantError, match="cannot share a batch: rows of new tokens"), adapted.mixed(["other", None]):
        pass
    adapted.switch("default")
    save_adapter(adapted, tmp_path)
    config = json.loads((tmp_path / "adapter.json").read_text())
    for wrong in ({"tokens": 3}, {"first": None}, {"size": 10**9}, {"first": -1}, {"tokens": []}):
        (tmp_path / "adapter.json").write_text(json.dumps(config | {"new_tokens": config["new_tokens"] | wrong}))
        with pytest.raises(VariantError, match="new_tokens|new tokens"):
            load(small(False)[0], tmp_path)
