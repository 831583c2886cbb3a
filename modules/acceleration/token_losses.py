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
import triton
import triton.language as tl
from torch import Tensor, nn

from variants.acceleration.basics.policy import has_triton

CHUNK = 2**26
"""Bytes of logits that are there at a time."""


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
    """Whether logits are a product with a frozen matrix of the hidden states' dtype, which Triton can have."""
    plain = type(head) is nn.Linear and head.bias is None and not head._forward_hooks and "adapter" not in head._modules
    return plain and not head.weight.requires_grad and head.weight.dtype == hidden.dtype and has_triton(hidden)


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wanted else None
        vocabulary = len(weight)
        rows = max(128, CHUNK // (vocabulary * hidden.element_size()) // 128 * 128)
        block = min(triton.next_power_of_2(vocabulary), 8192)
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits = F.linear(hidden[part], weight)
            _losses_and_gradients[(len(logits),)](
                logits, targets[part], losses[part], vocabulary, smoothing, wanted, block, num_warps=16
            )
            if wanted:
                torch.mm(logits, weight, out=gradient[part])
        ctx.save_for_backward(*([gradient] if wanted else []))
        return losses

    @staticmethod
    def backward(ctx: Any, of_losses: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * of_losses[:, None].to(gradient.dtype), None, None, None


@triton.jit
def _losses_and_gradients(logits, targets, losses, vocabulary, smoothing, wanted: tl.constexpr, block: tl.constexpr):
    """A program for each token: its loss, and its logits' gradient where its logits were."""
    token = tl.program_id(0).to(tl.int64)
    row, target = logits + token * vocabulary, tl.load(targets + token)
    own = tl.load(row + target).to(tl.float32)  # now: below, other threads may have written there already
    columns = tl.arange(0, block)
    largest = tl.full((block,), -float("inf"), tl.float32)
    total = tl.zeros((block,), tl.float32)
    plain = tl.zeros((block,), tl.float32)
    for start in range(0, vocabulary, block):
        inside = start + columns < vocabulary
        x = tl.load(row + start + columns, mask=inside, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(largest, x)
        shift = tl.where(higher == -float("inf"), 0.0, higher)  # of columns that have seen none yet
        total = total * tl.exp(largest - shift) + tl.exp(x - shift)
        largest = higher
        plain += tl.where(inside, x, 0.0)
    top = tl.max(largest, 0)
    log_sum = top + tl.log(tl.sum(total * tl.exp(largest - top), 0))
    mean = tl.sum(plain, 0) / vocabulary
    tl.store(losses + token, log_sum - (1 - smoothing) * own - smoothing * mean)
    if wanted:
        for start in range(0, vocabulary, block):
            inside = start + columns < vocabulary
            x = tl.load(row + start + columns, mask=inside, other=-float("inf")).to(tl.float32)
            found = tl.exp(x - log_sum) - smoothing / vocabulary
            found = tl.where(start + columns == target, found - (1 - smoothing), found)
            tl.store(row + start + columns, found.to(logits.dtype.element_ty), mask=inside)
