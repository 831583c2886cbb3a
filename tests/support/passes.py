"""Forward and backward passes of adapted models, plain and accelerated, and the distance between them."""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from modules.acceleration.frozen_precision import lower_frozen
from variants import attach
from variants.acceleration import accelerated

IDS = torch.tensor([[5, 17, 33, 8, 61], [9, 70, 4, 4, 11]])


def roberta() -> nn.Module:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return RobertaForSequenceClassification(RobertaConfig(vocab_size=100, **sizes))


def gpt2() -> nn.Module:
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=100, **ends))


def llama() -> nn.Module:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=100, intermediate_size=48, **sizes))


def adapted(build, variant, low: bool, device: str = "cpu"):
    torch.manual_seed(0)
    model = build().eval().to(device)
    if low:
        lower_frozen(model, torch.bfloat16)
    handle = attach(model, variant, seed=0)
    with torch.no_grad():
        for parameter in handle.trained().values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return handle


def loss_and_gradients(handle, prepared: bool):
    for parameter in handle.trained().values():
        parameter.grad = None
    ids = IDS.to(next(handle.model.parameters()).device)
    if prepared:
        with accelerated(handle):
            loss = handle.model(input_ids=ids).logits.float().square().mean()
    else:
        loss = handle.model(input_ids=ids).logits.float().square().mean()
    loss.backward()
    return loss.item(), {name: p.grad for name, p in handle.trained().items() if p.grad is not None}


def distance(found: dict, expected: dict) -> float:
    assert found.keys() == expected.keys()
    return max(((found[k] - g).norm() / g.norm().clamp_min(1e-12)).item() for k, g in expected.items())
