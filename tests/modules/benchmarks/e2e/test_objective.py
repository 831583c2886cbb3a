"""E2E's loss, beam search and parameter counts, against independent computations."""

import pytest
import torch

from modules.benchmarks.causal.decode import decode
from tests.support.e2e_tiny import batches, objective, pairs, words
from tests.support.small import small
from tests.support.tiny import train
from variants import attach
from variants.registry import BUILT_IN, resolve
from variants.sites.architectures import head_parameters

# ---- loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_full_logits_and_a_mask(tiny, splits, smoothing):
    """As microsoft/LoRA's model.py has it: every position's logits, nll and smoothing, times a mask, averaged."""
    model, tokenizer = tiny
    module = objective(splits, tokenizer, smoothing)
    for batch in batches(splits, tokenizer):
        losses, weights, _ = module.losses(model, batch, training=True)
        ours = (weights * losses).sum()
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        labels = batch["input_ids"][:, 1:]
        said = logits.log_softmax(-1)
        nll = -said.gather(-1, labels[..., None])[..., 0]
        smooth = (1 - smoothing) * nll - smoothing * said.mean(-1)
        separator = (batch["input_ids"] == 0).int().argmax(1)  # the first end token closes the context
        place = torch.arange(labels.shape[1])
        mask = (place >= separator[:, None]) & (batch["attention_mask"][:, 1:] == 1)
        assert torch.allclose(ours, (smooth * mask).sum() / mask.sum(), atol=1e-6)
        plain = module.losses(model, batch, training=False)[0]  # smoothing is for training
        assert torch.allclose(plain, nll[mask], atol=1e-5)


def test_no_logits_are_computed_where_there_is_no_target(tiny, splits):
    model, tokenizer = tiny
    batch = batches(splits, tokenizer)[0]
    rows = []
    handle = model.lm_head.register_forward_hook(lambda _, args, out: rows.append(args[0].shape[:-1].numel()))
    objective(splits, tokenizer).losses(model, batch, training=True)
    handle.remove()
    assert rows == [len(batch["targets"])] and rows[0] < batch["attention_mask"].sum()


@pytest.mark.parametrize("variant", BUILT_IN)
def test_every_variant_trains_and_decodes_unchanged(fresh, splits, variant):
    """Every trained parameter gets a gradient, there is no head, and outputs come from the adapted model."""
    model, tokenizer = fresh
    adapted = attach(model, small(variant), seed=0)
    assert adapted.count()["head"] == 0
    module, batch = objective(splits, tokenizer), batches(splits, tokenizer)[0]
    before = decode(model, module.inputs["test"].ids, tokenizer, module.decoding.greedy())
    trained = adapted.trained()
    if not trained:
        assert variant == "head"
        return
    losses, weights, _ = module.losses(model.train(), batch, training=True)
    (weights * losses).sum().backward()
    assert all(parameter.grad is not None for parameter in trained.values())
    train(trained, seed=0)
    train(trained, seed=1)
    assert decode(model, module.inputs["test"].ids, tokenizer, module.decoding.greedy()) != before


def test_a_language_models_own_output_embedding_is_no_fresh_head():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2, tie_word_embeddings=False)
    assert head_parameters(GPT2LMHeadModel(config)) == []


@pytest.mark.parametrize(
    "shape, variant, count",
    [
        ((1024, 24, 16), "lora", 393_216),  # 24 layers x (q, v) x (1024 + 1024) x 4; the paper prints 0.35M
        ((1280, 36, 20), "lora", 737_280),  # the paper prints 0.77M
        ((1024, 24, 16), "vera", 98_304),  # 48 x (1024 + 1024); the paper prints 0.098M
    ],
)
def test_trainable_parameters_of_the_papers_models(shape, variant, count):
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(n_embd=shape[0], n_layer=shape[1], n_head=shape[2]))
    options = {"lora": {"r": 4}, "vera": {"r": 1024}}[variant]
    adapted = attach(model, resolve(variant)(target="attn-qv", **options), seed=0)
    assert adapted.count()["adapter"] == count and adapted.count()["head"] == 0


def test_the_tiny_vocabulary_is_whole():
    assert len(words()) > 60 and all(pairs().values())


def test_what_stands_behind_a_row_does_not_change_its_loss(tiny, splits):
    """The model is given no mask: padding comes last, where no token of the row looks."""
    model, tokenizer = tiny
    module = objective(splits, tokenizer)
    batch = batches(splits, tokenizer)[0]
    rows = batch["attention_mask"] == 0
    assert rows.any()
    other = batch | {"input_ids": batch["input_ids"].masked_fill(rows, 7)}
    with torch.no_grad():
        first, second = (module.losses(model, b, training=True)[0] for b in (batch, other))
    assert torch.equal(first, second)
