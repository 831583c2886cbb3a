"""Causal attention without a mask: a decoder's own numbers at every token, whatever stands behind the rows."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from transformers.integrations import sdpa_attention

from modules.acceleration import unmasked_attention
from modules.acceleration.unmasked_attention import NAME, unmasked
from variants.acceleration.basics.overrides import overriding

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
SIZES |= {"vocab_size": 100, "intermediate_size": 48}
WIDTH = 6


def llama(attention: str = "sdpa") -> nn.Module:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation=attention)).eval()


def mistral(window: int | None) -> nn.Module:
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=window, attn_implementation="sdpa")).eval()


@pytest.fixture
def masks(monkeypatch) -> list[bool]:
    """Whether each attention had a mask."""
    found, own = [], torch.nn.functional.scaled_dot_product_attention

    def noted(*args, attn_mask=None, **options):
        found.append(attn_mask is not None)
        return own(*args, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    return found


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of 6 and 3 tokens, padding behind them."""
    ids = torch.randint(1, 100, (2, WIDTH), generator=torch.Generator().manual_seed(0))
    there = torch.ones_like(ids)
    ids[1, 3:], there[1, 3:] = 0, 0
    return ids, there


def test_padding_behind_rows_needs_no_mask(masks):
    """Outputs and gradients at tokens are those of the model with the mask, and of each row alone."""
    model, (ids, there) = llama(), tokens()
    weight, found = model.model.layers[0].self_attn.k_proj.weight, []
    pulled = torch.randn(2, WIDTH, 100, generator=torch.Generator().manual_seed(1)) * there[..., None]
    for fast in (False, True):
        masks.clear()
        with overriding(unmasked(model, WIDTH) if fast else []):
            logits = model(input_ids=ids, **({} if fast else {"attention_mask": there})).logits
        assert masks == 2 * [not fast]
        found.append((logits * pulled, torch.autograd.grad((logits * pulled).sum(), weight)[0]))
    for expected, own in zip(*found, strict=True):
        torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-4)
    alone = model(input_ids=ids[1:, :3]).logits
    torch.testing.assert_close(logits[1:, :3], alone, atol=1e-5, rtol=1e-4)


def test_masks_that_come_in_are_not_looked_at(masks):
    """transformers makes masks where it cannot know that they are not needed; here none is made."""
    model, (ids, _) = llama(), tokens()
    with overriding(unmasked(model, WIDTH)):
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert masks == [False, False]


def test_the_model_is_as_before_afterwards(masks):
    model = llama()
    before = dict(vars(model.config))
    overrides = unmasked(model, WIDTH)
    with overriding(overrides):
        assert model.config._attn_implementation == NAME
    assert vars(model.config) == before and model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("window", "taken"), [(4, False), (WIDTH, True), (None, True)], ids=["shorter", "as long as rows", "none"]
)
def test_windows_that_are_shorter_than_rows_keep_their_mask(window, taken, masks):
    model, (ids, _) = mistral(window), tokens()
    expected = model(input_ids=ids).logits
    masks.clear()
    overrides = unmasked(model, WIDTH)
    with overriding(overrides):
        found = model(input_ids=ids).logits
    assert bool(overrides) == taken and masks == 2 * [not taken]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_attention_in_chunks_keeps_its_mask():
    model = llama()
    model.config.attention_chunk_size = WIDTH - 1
    assert not unmasked(model, WIDTH)
    model.config.attention_chunk_size = WIDTH
    assert unmasked(model, WIDTH)


def test_other_attentions_are_left_alone():
    """Eager attention is causal by its mask alone."""
    assert not unmasked(llama("eager"), WIDTH)


def test_it_is_transformers_own_function_without_a_mask(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        unmasked_attention, "sdpa_attention_forward", lambda *args, **options: seen.update(mask=args[4], **options)
    )
    assert sdpa_attention.sdpa_attention_forward is not unmasked_attention.sdpa_attention_forward
    unmasked_attention._attend(nn.Identity(), *torch.zeros(3, 1), torch.ones(1), scaling=2.0)
    assert seen == {"mask": None, "scaling": 2.0}
