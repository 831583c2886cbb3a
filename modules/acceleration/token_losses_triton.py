"""Losses of tokens and the gradients of their logits, by one Triton program a token."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

MOST = 8192
"""Logits that a program looks at together."""


def losses_and_gradients(logits: Tensor, targets: Tensor, losses: Tensor, smoothing: float, wanted: bool) -> None:
    """Write each token's loss, and its logits' gradient where its logits were.

    Args:
        logits: (K, V), one row behind the other; overwritten where gradients are wanted.
        targets: (K,) int64.
        losses: (K,) in fp32, to be written.
        smoothing: ε of (1 - ε) nll + ε · (mean nll over the vocabulary).
    """
    vocabulary = logits.shape[1]
    block = min(triton.next_power_of_2(vocabulary), MOST)
    _program[(len(logits),)](logits, targets, losses, vocabulary, smoothing, wanted, block, num_warps=16)


@triton.jit
def _program(logits, targets, losses, vocabulary, smoothing, wanted: tl.constexpr, block: tl.constexpr):
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
