"""Rotary positions by a Triton program are transformers', and so are their gradients; on a CPU it is interpreted."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NEAR = {torch.float32: 1e-6, torch.bfloat16: 0.02}


def drawn(batch: int, d: int, dtype: torch.dtype, rows: int = 1) -> list[torch.Tensor]:
    """Queries, keys, cosines and sines, as a decoder has them: queries and keys are views, token by token."""
    torch.manual_seed(0)
    q, k = (torch.randn(batch, 5, heads, d, device=DEVICE).to(dtype).transpose(1, 2) for heads in (6, 2))
    angles = torch.randn(rows, 5, d // 2, device=DEVICE).repeat(1, 1, 2)
    return [q, k, angles.cos().to(dtype), angles.sin().to(dtype)]


@pytest.mark.parametrize(
    ("batch", "d", "dtype", "rows"),
    [(2, 8, torch.float32, 1), (2, 12, torch.float32, 2), (1, 16, torch.bfloat16, 1)],
    ids=["heads that are no power of two", "positions of each row, d that is no power of two", "bf16"],
)
def test_as_transformers_turns(batch, d, dtype, rows):
    from variants.acceleration.programs.rotary import turned

    q, k, cos, sin = drawn(batch, d, dtype, rows)
    of_q, of_k = (torch.randn_like(x) for x in (q, k))
    found = []
    for function in (apply_rotary_pos_emb, turned):
        inputs = [x.detach().requires_grad_() for x in (q, k)]
        outputs = function(*inputs, cos, sin)
        found.append([*outputs, *torch.autograd.grad(outputs, inputs, [of_q, of_k])])
    for expected, own in zip(*found, strict=True):
        assert own.shape == expected.shape and own.dtype == dtype
        torch.testing.assert_close(own, expected, atol=NEAR[dtype], rtol=NEAR[dtype])


def test_what_comes_in_stays_and_may_lie_anyhow():
    """Nothing is written into queries and keys; halves of heads need not lie side by side."""
    from variants.acceleration.programs.rotary import turned

    q, k, cos, sin = drawn(2, 8, torch.float32)
    spread = [torch.stack([x, x], -1)[..., 0] for x in (q, k)]  # every second number
    before = [x.clone() for x in (q, k, *spread)]
    found = [turned(q, k, cos, sin), turned(*spread, cos, sin), turned(q.contiguous(), k.contiguous(), cos, sin)]
    assert all(torch.equal(a, b) for a, b in zip(before, (q, k, *spread), strict=True))
    assert all(torch.equal(one, other) for each in found[1:] for one, other in zip(found[0], each, strict=True))
    assert found[0][0].transpose(1, 2).is_contiguous()
