"""RoBERTa's and GPT-2's classifiers computed from their weights alone, with places for what a method adds."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants import (
    attach,
)
from variants.contract.models import shift

P = 3


def trained(model: nn.Module, variant, seed: int = 0):
    """The variant as if trained: every tensor of it but the head's away from its start, by much."""
    adapted = attach(model, variant, seed)
    for index, (name, tensor) in enumerate(adapted.trained().items()):
        if name not in adapted.head:
            shift(tensor, index, 0.5)
    return adapted


@torch.no_grad()
def logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch).logits


def bottleneck(tensors: dict[str, Tensor], where: str, h: Tensor, activation=F.relu) -> Tensor:
    at = {name: tensors[f"{where}.{name}"] for name in ("down", "down_bias", "up", "up_bias")}
    return activation(h @ at["down"].T + at["down_bias"]) @ at["up"].T + at["up_bias"]


def linear(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight = w[f"{name}.weight"]
    return x @ (weight if "c_" in name else weight.T) + w[f"{name}.bias"]


def norm(w: dict[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, heads: int = 2) -> Tensor:
    """q (B, T, d); k, v (B, S, d); mask (B, T, S), True where allowed."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~mask[:, None], -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


@torch.no_grad()
def roberta_reference(
    model, batch, after_attention=None, after_ffn=None, end=None, keys=None, values=None, positions=None
) -> Tensor:
    """RoBERTa's classifier from its weights alone, with hooks for what a method adds.

    Args:
        after_attention, after_ffn: (layer, h) -> h on a projection's output, before the residual.
        end: (layer, residual stream, LN) -> hidden states at the end of a block.
        keys, values: (layer, the maps' weights) -> rows (p, d) before those of the text.
        positions: of the tokens, without RoBERTa's own offset.
    """
    w, eps = model.state_dict(), model.config.layer_norm_eps
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    where = torch.arange(ids.shape[1]) if positions is None else positions
    e = "roberta.embeddings"
    h = w[f"{e}.word_embeddings.weight"][ids] + w[f"{e}.token_type_embeddings.weight"][0]
    h = norm(w, f"{e}.LayerNorm", h + w[f"{e}.position_embeddings.weight"][where + 2], eps)
    for i in range(model.config.num_hidden_layers):
        at = f"roberta.encoder.layer.{i}"
        q, k, v = (linear(w, f"{at}.attention.self.{name}", h) for name in ("query", "key", "value"))
        allowed = mask[:, None].expand(-1, ids.shape[1], -1)
        if keys:
            more = keys(i), values(i)
            k, v = (torch.cat([p.expand(len(ids), -1, -1), t], 1) for p, t in zip(more, (k, v), strict=True))
            allowed = torch.cat([torch.ones(*allowed.shape[:2], len(more[0]), dtype=torch.bool), allowed], -1)
        y = linear(w, f"{at}.attention.output.dense", attention(q, k, v, allowed))
        h = norm(w, f"{at}.attention.output.LayerNorm", h + (after_attention(i, y) if after_attention else y), eps)
        y = linear(w, f"{at}.output.dense", F.gelu(linear(w, f"{at}.intermediate.dense", h)))
        u = h + (after_ffn(i, y) if after_ffn else y)

        def last(x, at=at):
            return norm(w, f"{at}.output.LayerNorm", x, eps)

        h = end(i, u, last) if end else last(u)
    return linear(w, "classifier.out_proj", torch.tanh(linear(w, "classifier.dense", h[:, 0])))


@torch.no_grad()
def gpt2_reference(model, batch, end=None, keys=None, values=None, shift_by=0) -> Tensor:
    """GPT-2's classifier from its weights alone; ``end``: (layer, residual stream) -> hidden states."""
    w, eps = model.state_dict(), model.config.layer_norm_epsilon
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    size = ids.shape[1]
    h = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][torch.arange(size) + shift_by]
    for i in range(model.config.n_layer):
        at = f"transformer.h.{i}"
        q, k, v = linear(w, f"{at}.attn.c_attn", norm(w, f"{at}.ln_1", h, eps)).chunk(3, -1)
        allowed = mask[:, None] & torch.ones(size, size, dtype=torch.bool).tril()
        if keys:
            more = keys(i), values(i)
            k, v = (torch.cat([p.expand(len(ids), -1, -1), t], 1) for p, t in zip(more, (k, v), strict=True))
            allowed = torch.cat([torch.ones(*allowed.shape[:2], len(more[0]), dtype=torch.bool), allowed], -1)
        h = h + linear(w, f"{at}.attn.c_proj", attention(q, k, v, allowed))
        up = F.gelu(linear(w, f"{at}.mlp.c_fc", norm(w, f"{at}.ln_2", h, eps)), approximate="tanh")
        h = h + linear(w, f"{at}.mlp.c_proj", up)
        h = end(i, h) if end else h
    h = norm(w, "transformer.ln_f", h, eps)
    last = mask.long().sum(1) - 1
    return h[torch.arange(len(ids)), last] @ w["score.weight"].T


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=2e-5 * (1 + b.abs().max().item()), rtol=0)


def behind_the_first(length: int) -> Tensor:
    """Positions of the text where p tokens stand behind its first."""
    return torch.cat([torch.zeros(1, dtype=torch.long), torch.arange(1, length) + P])
