"""What the three prefix methods share: generation with a cache, room for positions, known architectures."""

from __future__ import annotations

import pytest
import torch

from tests.support.causal_models import tiny
from tests.support.models import MODELS, inputs
from tests.support.transformer_reference import P, close, logits, trained
from variants import PrefixEmbed, PrefixLayer, PrefixTuning, VariantError, attach
from variants.adapters.stack import Stack


@torch.no_grad()
def decoder(name: str) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """A language model of a family with values away from zero; ids (2, 6) and their mask, padded on the left."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    small = MODELS[name]() if name in MODELS else tiny(name)
    model = AutoModelForCausalLM.from_config(small.config).eval()
    for tensor in model.parameters():
        tensor.add_(0.2 * torch.randn(tensor.shape))
    ids = torch.randint(4, 50, (2, 6))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    return model, ids, mask


@pytest.mark.parametrize("variant", [PrefixEmbed, PrefixLayer, PrefixTuning])
@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
@torch.no_grad()
def test_prefixes_generate_with_a_cache(name, variant) -> None:
    """Token by token behind a cache gives what the whole text gives, padding on the left included."""
    model, ids, mask = decoder(name)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 1, "num_beams": 3, "eos_token_id": 49}
    plain = model.generate(ids, attention_mask=mask, **options)
    adapted = trained(model, variant(p=P))
    texts = [model.generate(ids, attention_mask=mask, use_cache=on, **options) for on in (True, False)]
    assert torch.equal(*texts) and not torch.equal(texts[0], plain)
    with adapted.disabled():
        assert torch.equal(model.generate(ids, attention_mask=mask, **options), plain)


@pytest.mark.parametrize("variant", [PrefixEmbed, PrefixLayer, PrefixTuning])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
@torch.no_grad()
def test_stacked_prefixes_generate_as_each_alone(name, variant) -> None:
    """Behind one cache, beam search included: each adapter's rows have its own prefix."""
    model, ids, mask = decoder(name)
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "pad_token_id": 1, "num_beams": 3, "eos_token_id": 49}
    adapted, alone = attach(model, variant(p=P, std=0.5)), []
    adapted.add("other", variant(p=P, std=0.5), 1)
    for each in ("default", "other"):
        adapted.switch(each)
        alone.append(model.generate(ids, attention_mask=mask, do_sample=False, **options))
    Stack(adapted, ["default", "other"])
    both = model.generate(ids.repeat(2, 1), attention_mask=mask.repeat(2, 1), do_sample=False, **options)
    assert torch.equal(both, torch.cat(alone)) and not torch.equal(*alone)


DECODERS = ("mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "gpt_neox", "bloom", "falcon")
MORE = ("smollm3", "olmo2", "granite", "cohere", "stablelm", "glm", "starcoder2", "phi", "gptj", "gpt_neo", "codegen")
MORE += ("gpt_bigcode", "mpt", "persimmon")


@pytest.mark.parametrize("variant", [PrefixEmbed, PrefixLayer, PrefixTuning])
@pytest.mark.parametrize("name", [*DECODERS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
@torch.no_grad()
def test_prefixes_work_behind_a_cache_of_other_decoders(name, variant) -> None:
    model, ids, mask = decoder(name)
    batch = {"input_ids": ids, "attention_mask": mask}
    plain = logits(model, batch)
    trained(model, variant(p=P))
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 1, "eos_token_id": 49}
    texts = [model.generate(**batch, use_cache=on, **options) for on in (True, False)]
    assert torch.equal(*texts) and not close(logits(model, batch), plain)


def test_a_prefix_must_stay_in_sight() -> None:
    """peft #2821 and PR 3205: tokens that a sliding window away from the prefix do not see it."""
    model, ids, mask = decoder("mistral")
    model.config.sliding_window, model.config.max_position_embeddings = 16, 64
    with pytest.raises(VariantError, match="prefix falls out of the sliding window of mistral: behind 16 tokens"):
        attach(model, PrefixTuning(p=P))
    model.config.max_position_embeddings = 16 - P
    attach(model, PrefixTuning(p=P))


def test_a_prefix_needs_room() -> None:
    model = MODELS["roberta"]()  # 40 positions, of which RoBERTa leaves two out
    batch = inputs("roberta", length=30)
    attach(model, PrefixTuning(p=8))
    model(**batch)
    model = MODELS["roberta"]()
    attach(model, PrefixTuning(p=9))
    with pytest.raises(VariantError, match="30 tokens and a prefix of 9 are more than the 38 positions"):
        model(**batch)
    attach(model := MODELS["llama"](), PrefixTuning(p=64))  # no table of positions: no such limit
    model(**inputs("llama", length=30))


@pytest.mark.parametrize("name", ["t5", "vit"])
def test_prefixes_name_the_architectures_they_know(name) -> None:
    with pytest.raises(VariantError, match=f"a prefix is known for bert, .*llama, .*, not for {name}"):
        attach(MODELS[name](), PrefixEmbed(p=2))


def test_a_family_under_another_name_is_not_taken_for_granted() -> None:
    """transformers #34312: its maps have names, but whether its cache takes a prefix was not tried; one short line."""
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = MixtralForCausalLM(MixtralConfig(**sizes, num_key_value_heads=2, intermediate_size=24))
    with pytest.raises(VariantError, match="a prefix is known for bert, .*, not for mixtral") as error:
        attach(model, PrefixTuning(p=2))
    assert len(str(error.value)) < 300
