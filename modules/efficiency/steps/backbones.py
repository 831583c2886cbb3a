"""Backbones of published sizes with random weights, and the loss that every implementation computes."""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.sites.architectures import ARCHITECTURES

Batch = dict[str, Tensor]
SMOOTHING = 0.1
"""Label smoothing of the E2E loss, as in the LoRA authors' recipe."""

_ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
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
}
"""transformers' configuration of each backbone; the embedded ones are read from their folders. roberta-thin has the
blocks of roberta-base with hardly any arithmetic: its step takes the host's time alone."""


def sizes(shape: str) -> dict[str, Any]:
    """Configuration of a backbone: a key of `SHAPES`, ``embedded-roberta`` or ``embedded-gpt2``."""
    from modules.embedded import GPT2, ROBERTA

    if folder := {"embedded-roberta": ROBERTA, "embedded-gpt2": GPT2}.get(shape):
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return SHAPES[shape]


def is_language_model(config: dict[str, Any]) -> bool:
    """Whether a backbone is measured as a language model; the others are classifiers."""
    return ARCHITECTURES[config["model_type"]].causal


def build(config: dict[str, Any], device: torch.device, seed: int = 0, dropout: bool = True) -> nn.Module:
    """A classifier of two labels or a language model with random weights, in fp32 and training mode.

    Args:
        dropout: as the configuration has it; else 0 everywhere.
    """
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
        model = auto.from_config(transformers.AutoConfig.for_model(kind, **options), attn_implementation="sdpa")
    return model.train()


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Scalar loss in fp32: cross-entropy of the labels, or of the target tokens with label smoothing.

    Args:
        model: a transformers model, or PEFT's around one; logits of a language model are computed at targets alone.
    """
    names = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "starts", "ends", "columns")
    inputs = {k: batch[k] for k in names if k in batch}
    if "targets" not in batch:
        return F.cross_entropy(model(**inputs).logits.float(), batch["labels"])
    hidden = model.transformer(**inputs).last_hidden_state
    logits = model.lm_head(hidden.flatten(0, 1).index_select(0, batch["positions"])).float()
    losses = F.cross_entropy(logits, batch["targets"], reduction="none", label_smoothing=SMOOTHING)
    return (losses * batch["weights"]).sum()
