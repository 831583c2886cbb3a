"""Prefix tuning in PEFT's format: the keys and values that a language model's cache holds before the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from variants.adapters.adapted_model import AdaptedModel
from variants.errors import VariantError
from variants.formats.boundary import build
from variants.formats.common import base_of
from variants.formats.peft.tasks import task_of
from variants.prefix_room import RoomLayer
from variants.registry import resolve

PROMPT = "prompt_embeddings"
"""The one tensor: (p, blocks · 2 · heads · width), of each block keys, then values, as attention has them."""
WITHOUT = ("bias", "fan_in_fan_out", "layers_pattern", "layers_to_transform", "modules_to_save", "target_modules")
"""Options that PEFT's other configurations have and this one lacks."""
NEAR = 8
"""Roundings, of the model's dtype, by which keys may differ that are turned back and forth."""


def prefix_config(adapted: AdaptedModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensor of the active adapter.

    Our keys are those that come out of the map; PEFT's go into the attention, turned by their position where it has
    rotary embeddings, or normalised: they are read from the model's own cache.

    Raises:
        VariantError: PEFT has none for the model.
    """
    _refuse_others(adapted.model)
    if adapted.adapter.in_place:
        raise VariantError(f"PEFT trains nothing beside a prefix, and here {adapted.adapter.in_place[0]} trains")
    with torch.no_grad():
        cached = _cached(adapted)
    p, blocks, _, heads, width = cached.shape
    config = {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": p,
        "num_layers": blocks,
        "num_attention_heads": heads,
        "token_dim": heads * width,
        "num_transformer_submodules": 1,
        "encoder_hidden_size": heads * width,
        "prefix_projection": False,
    }
    return config, {PROMPT: cached.flatten(1).float()}


def load_prefix(model: nn.Module | AdaptedModel, folder: Path, tensors: dict[str, Tensor], name: str) -> AdaptedModel:
    """The adapter of PEFT's tensor. What a perceptron has computed (``prefix_projection``) PEFT saves computed.

    Keys are turned back by the transpose of what the model does with them, which its own backward pass is: a rotation's
    inverse. Whether it is one is seen from the keys that come out again.

    Raises:
        VariantError: the file is none of a language model, does not fit this one, or this one normalises its keys.
    """
    base, prompt = base_of(model), tensors.get(PROMPT)
    _refuse_others(base)
    if prompt is None or prompt.ndim != 2 or len(tensors) > 1:
        odd = next((key for key in tensors if key != PROMPT), None)
        raise VariantError(f"{folder} has {odd}, which no prefix has" if odd else f"{folder} lacks the matrix {PROMPT}")
    variant = build(folder, resolve("prefix_tuning"), {"p": len(prompt)}, [prompt])
    adapted = model if isinstance(model, AdaptedModel) else AdaptedModel(base, [])
    with adapted.adding(name, variant):
        _fill(adapted, folder, prompt)
    return adapted


def _refuse_others(model: nn.Module) -> None:
    if task_of(model) != "CAUSAL_LM":
        raise VariantError(f"PEFT's prefix tuning is for causal language models, which {type(model).__name__} is not")


def _rows(adapted: AdaptedModel) -> list[nn.Parameter]:
    """The trained rows (p, d), in any order: the pass knows where each goes."""
    return [layer.prefix for layer in adapted.layers if not isinstance(layer, RoomLayer)]


def _cached(adapted: AdaptedModel) -> Tensor:
    """What the model's cache holds of the prefix, (p, blocks, 2, heads, width)."""
    model, found, p = adapted.model, adapted.state, adapted.variant.p
    training, token = model.training, torch.zeros(1, 1, dtype=torch.long, device=_rows(adapted)[0].device)
    adapted.enable()
    try:
        cache = model.eval()(input_ids=token, use_cache=True).past_key_values
    finally:
        model.train(training)
        adapted.restore(found)
    pairs = [torch.stack([layer.keys[0, :, :p], layer.values[0, :, :p]]) for layer in cache.layers]
    return torch.stack(pairs).permute(3, 0, 1, 2, 4)


def _fill(adapted: AdaptedModel, folder: Path, prompt: Tensor) -> None:
    rows, cached = _rows(adapted), _cached(adapted)
    if prompt.shape != cached.flatten(1).shape:
        own = tuple(cached.flatten(1).shape)
        raise VariantError(f"{PROMPT} is {tuple(prompt.shape)} in the file and {own} in the model")
    wanted = prompt.to(cached).view_as(cached)
    turned_back = torch.autograd.grad((cached * wanted).sum(), rows)
    for own, back in zip(rows, turned_back, strict=True):
        own.data.copy_(back)
    with torch.no_grad():
        off = (_cached(adapted) - wanted).abs().max()
    if not off <= NEAR * torch.finfo(wanted.dtype).eps * wanted.abs().max():
        what = f"{type(adapted.model).__name__} normalises keys, or changes them otherwise than by a rotation"
        raise VariantError(f"{what}, so that there are none here that become those of {folder}")
