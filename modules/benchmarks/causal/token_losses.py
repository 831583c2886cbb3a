"""From hidden states to the losses of target tokens."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def token_losses(model: nn.Module, hidden: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """-log p(target), with label smoothing (1 - ε) nll + ε · (mean nll over the vocabulary).

    Args:
        model: the language model, whose output embedding makes logits of hidden states.
        hidden: (K, d), of the tokens that predict.
        targets: (K,) int64.

    Returns:
        (K,) in fp32.
    """
    logits = shaped(model.config, model.get_output_embeddings()(hidden).float())
    return F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)


def shaped(config, logits: Tensor) -> Tensor:
    """What families do with the output embedding's numbers before they are logits."""
    if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere
        logits = logits * scale
    if (scaling := getattr(config, "logits_scaling", None)) is not None:  # Granite
        logits = logits / scaling
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma 2
        logits = cap * (logits / cap).tanh()
    return logits


def shapes_nothing(config) -> bool:
    """Whether `shaped` leaves logits as they are."""
    return all(
        getattr(config, name, None) is None for name in ("logit_scale", "logits_scaling", "final_logit_softcapping")
    )
