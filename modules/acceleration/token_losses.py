"""Losses of tokens from hidden states, over a frozen output embedding: few logits are there at a time.

A vocabulary of 32,000 makes 64 kB of logits a token in bf16, and their fp32 copies for the softmax are the largest
tensors of a language model's step. Here a chunk of tokens gets its logits, its losses and its part of the gradient of
the hidden states at once, and the logits are gone. Nothing waits for a value of the GPU, so that CUDA graphs hold it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.acceleration.basics.policy import has_triton
from variants.acceleration.products.shared_input import frozen_linear

CHUNK = 2**26
"""Bytes of logits that are there at a time."""
ROWS = 128
"""Tokens of a chunk are a multiple of these, for fast products."""


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """-log p(target), with label smoothing (1 - ε) nll + ε · (mean nll over the vocabulary).

    Args:
        hidden: (K, d), on a GPU.
        weight: of the output embedding, (V, d), frozen, in the dtype of ``hidden``; logits are hidden · weightᵀ.
        targets: (K,) int64.

    Returns:
        (K,) in fp32.
    """
    return _TokenLosses.apply(hidden, weight, targets, smoothing)


def in_chunks(plain: Callable[..., Tensor], plain_logits: Callable[[Any], bool]) -> Callable[..., Tensor]:
    """As ``plain``, a function of (model, hidden states, targets, smoothing), in chunks where the model allows it.

    Args:
        plain_logits: whether a model of a configuration has its output embedding's numbers as logits.
    """

    def losses(model: nn.Module, hidden: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        head = model.get_output_embeddings()
        if not (_is_plain(head, hidden) and plain_logits(model.config)):
            return plain(model, hidden, targets, smoothing)
        return token_losses(hidden, head.weight, targets, smoothing)

    return losses


def _is_plain(head: nn.Module, hidden: Tensor) -> bool:
    """Whether logits are a product with a frozen matrix of the hidden states' dtype and nothing else, which Triton can
    have."""
    hooks = head._forward_hooks, head._forward_pre_hooks, head._backward_hooks, head._backward_pre_hooks
    plain = type(head) is nn.Linear and head.bias is None and frozen_linear(head) and not any(hooks)
    return plain and head.weight.dtype == hidden.dtype and has_triton(hidden)


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        from modules.acceleration.token_losses_triton import losses_and_gradients

        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wanted else None
        rows = max(ROWS, CHUNK // (len(weight) * hidden.element_size()) // ROWS * ROWS)
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = F.linear(hidden[part], weight)
            losses_and_gradients(logits, targets[part], losses[part], smoothing, wanted)
            if wanted:
                torch.mm(logits, weight, out=gradient[part])
        ctx.save_for_backward(*([gradient] if wanted else []))
        return losses

    @staticmethod
    def backward(ctx: Any, of_losses: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * of_losses[:, None].to(gradient.dtype), None, None, None
