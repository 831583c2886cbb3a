"""Backbones of published sizes with random weights, and the loss that every implementation computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.efficiency.steps import unets
from variants.sites.architectures import ARCHITECTURES

Batch = dict[str, Tensor]
SMOOTHING = 0.1
"""Label smoothing of the E2E loss, as in the LoRA authors' recipe."""

_ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
LLAMA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
"""LLaMA's published sizes (Touvron et al. 2023, Table 2); its vocabulary of 32,000 is transformers' default."""
_LLAMA_1B = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
"""TinyLlama's (Zhang et al. 2024, arXiv 2401.02385, Table 1)."""
SHAPES: dict[str, dict[str, Any]] = {
    "roberta-base": {"model_type": "roberta", **_ROBERTA, **_BASE},
    "roberta-large": {"model_type": "roberta", **_ROBERTA, **_LARGE},
    "roberta-thin": {
        "model_type": "roberta",
        **_ROBERTA,
        "hidden_size": 16,
        "num_hidden_layers": 12,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    },
    "gpt2-medium": {"model_type": "gpt2", "n_embd": 1024, "n_layer": 24, "n_head": 16},
    "llama-1b": {"model_type": "llama", **_LLAMA_1B, "num_hidden_layers": 22},
    "llama-1b-short": {"model_type": "llama", **_LLAMA_1B, "num_hidden_layers": 2},
    "llama-7b": {"model_type": "llama", **LLAMA_7B},
    "llama-7b-short": {"model_type": "llama", **LLAMA_7B, "num_hidden_layers": 2},
    **unets.SHAPES,
}
"""transformers' configuration of each backbone, and diffusers' of UNets; the embedded ones are read from their folders.
roberta-thin has the blocks of roberta-base with hardly any arithmetic: its step takes the host's time alone. The short
ones have two of the blocks, for loss curves in fp32."""


def sizes(shape: str) -> dict[str, Any]:
    """Configuration of a backbone: a key of `SHAPES`, ``embedded-roberta`` or ``embedded-gpt2``."""
    from modules.embedded import GPT2, ROBERTA

    if folder := {"embedded-roberta": ROBERTA, "embedded-gpt2": GPT2}.get(shape):
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return SHAPES[shape]


def is_language_model(config: dict[str, Any]) -> bool:
    """Whether a backbone is measured as a language model; the others are classifiers."""
    return ARCHITECTURES[config["model_type"]].causal


def build(
    config: dict[str, Any],
    device: torch.device,
    seed: int = 0,
    dropout: bool = True,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """A classifier of two labels, a language model or a UNet with random weights, in training mode.

    Args:
        dropout: as the configuration has it; else 0 everywhere.
    """
    if unets.is_unet(config):
        return unets.build(config, device, seed, dtype)
    import transformers

    options = {k: v for k, v in config.items() if k not in ("architectures", "transformers_version", "dtype")}
    kind = options.pop("model_type")
    is_lm = is_language_model(config)
    if not dropout:
        options |= dict.fromkeys(ARCHITECTURES[kind].dropout, 0.0)
    options |= {"use_cache": False} if is_lm else {"num_labels": 2}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        auto = transformers.AutoModelForCausalLM if is_lm else transformers.AutoModelForSequenceClassification
        model = auto.from_config(
            transformers.AutoConfig.for_model(kind, **options), attn_implementation="sdpa", dtype=dtype
        )
    if kind == "llama":  # for all ways alike: eager steps make no mask, and graphs shall not either
        from modules.acceleration.unmasked_attention import unmasked

        for thing, name, value in unmasked(model, model.config.max_position_embeddings):
            setattr(thing, name, value)
    return model.train()


def plain_losses(hidden: Tensor, head: nn.Module, targets: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy (K,) of target tokens (K,), given hidden states (K, d)."""
    return F.cross_entropy(head(hidden).float(), targets, reduction="none", label_smoothing=smoothing)


def chunked_losses(hidden: Tensor, head: nn.Module, targets: Tensor, smoothing: float) -> Tensor:
    """As :func:`plain_losses`, over a frozen head, as runs compute it (`modules.acceleration.token_losses`)."""
    from modules.acceleration.token_losses import token_losses

    return token_losses(hidden, head.weight, targets, smoothing)


def loss_of(model: nn.Module, batch: Batch, losses_of: Callable[..., Tensor] = plain_losses) -> Tensor:
    """Scalar loss in fp32: cross-entropy of the labels, or of the target tokens, with GPT-2 smoothed as in E2E; of a
    UNet the squared error of the noise.

    Args:
        model: a transformers model, or PEFT's around one; logits of a language model are computed at targets alone.
        losses_of: computes a language model's losses.
    """
    if "latents" in batch:
        return unets.loss_of(model, batch)
    names = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "starts", "ends", "columns")
    inputs = {k: batch[k] for k in names if k in batch}
    if "targets" not in batch:
        return F.cross_entropy(model(**inputs).logits.float(), batch["labels"])
    hidden = model.base_model(**inputs).last_hidden_state
    chosen = hidden.flatten(0, 1).index_select(0, batch["positions"])
    smoothing = SMOOTHING if model.config.model_type == "gpt2" else 0.0
    losses = losses_of(chosen, model.get_output_embeddings(), batch["targets"], smoothing)
    return (losses * batch["weights"]).sum()
