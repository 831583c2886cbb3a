"""Prefix tuning against Li and Liang's keys and values, and against PEFT."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.support.models import MODELS, inputs
from tests.support.transformer_reference import P, behind_the_first, close, logits, roberta_reference, trained
from variants import PrefixTuning, attach


def test_prefix_tuning_is_li_and_liangs_keys_and_values() -> None:
    """The reference never computes hidden states of the prefix: it has keys and values alone."""
    model, batch = MODELS["roberta"](), inputs("roberta")
    t = trained(model, PrefixTuning(p=P)).adapter.tensors()
    expected = roberta_reference(
        model,
        batch,
        keys=lambda i: t[f"roberta.encoder.layer.{i}.attention.self.key.prefix"],
        values=lambda i: t[f"roberta.encoder.layer.{i}.attention.self.value.prefix"],
        positions=behind_the_first(batch["input_ids"].shape[1]),
    )
    assert close(logits(model, batch), expected)


def test_prefix_tuning_on_a_fused_map_is_pefts() -> None:
    peft = pytest.importorskip("peft")
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "bos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(**shape, eos_token_id=2)).eval()
    ours = copy.deepcopy(model)
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P)
    theirs = peft.get_peft_model(model, config).eval()
    weight = theirs.prompt_encoder["default"].embedding.weight.detach()
    nn.init.normal_(weight)
    adapted = attach(ours, PrefixTuning(p=P))
    for i, at in enumerate(ours.transformer.h):
        for j, layer in enumerate(at.attn.c_attn.adapter.layers):
            layer.prefix.data.copy_(weight.view(P, 2, 2, 16)[:, i, j])  # tokens, blocks, key or value, d
    batch = inputs("gpt2")
    assert close(logits(ours, batch), logits(theirs, batch))
    with adapted.disabled():
        assert not close(logits(ours, batch), logits(theirs, batch))
