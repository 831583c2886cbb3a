"""DoRA's gain by Triton programs: PyTorch's numbers, in one pass over memory; on a CPU they are interpreted."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from variants.acceleration.basics import policy
from variants.acceleration.products import elementwise

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(
    ("rows", "columns", "dtype"),
    [(3, 5, torch.float32), (70, 130, torch.float32), (513, 3, torch.float32), (70, 128, torch.bfloat16)],
    ids=["less than a tile", "tiles with an edge", "two programs add up", "bf16"],
)
def test_outputs_and_gradients(rows, columns, dtype):
    """As (1 + h) ⊙ u in double precision, to the rounding of the dtype."""
    from variants.acceleration.programs.gain import gained

    torch.manual_seed(0)
    u, h = torch.randn(rows, columns, device=DEVICE).to(dtype), torch.randn(columns, device=DEVICE).to(dtype)
    pulled = torch.randn_like(u)
    found = []
    for function, exact in ((gained, False), (lambda u, h: (1 + h) * u, True)):
        u1, h1, g = (x.double() if exact else x for x in (u, h, pulled))
        inputs = [x.detach().requires_grad_() for x in (u1, h1)]
        y = function(*inputs)
        found.append([y, *torch.autograd.grad(y, inputs, g)])
    near = 1e-5 if dtype == torch.float32 else 0.01
    for own, expected in zip(*found, strict=True):
        assert own.dtype == dtype and own.shape == expected.shape
        assert (own.double() - expected).abs().max() <= near * expected.abs().max()


def test_views_and_gradients_that_are_no_rows(monkeypatch):
    """As attention's, whose gradients come back turned; nothing is written into what comes in."""
    from variants.acceleration.programs.gain import gained

    u, h = torch.randn(6, 4, device=DEVICE).mT.requires_grad_(), torch.randn(6, device=DEVICE, requires_grad=True)
    before = u.detach().clone()
    pulled = torch.randn(6, 4, device=DEVICE).mT
    y = gained(u, h)
    found = torch.autograd.grad(y, [u, h], pulled)
    torch.testing.assert_close(y, (1 + h) * u)
    torch.testing.assert_close(found, torch.autograd.grad((1 + h) * u, [u, h], pulled))
    assert torch.equal(u, before)


@pytest.mark.parametrize("large", [0, 2**30])
def test_large_outputs_without_a_bias_take_the_program(large, monkeypatch):
    """And the sum is the same the other way."""
    from variants.acceleration.programs import gain

    calls, own = [], gain.gained
    monkeypatch.setattr(gain, "gained", lambda u, h: calls.append(1) or own(u, h))
    monkeypatch.setattr(elementwise, "has_triton", lambda x: True)
    monkeypatch.setattr(policy, "LARGE", large)
    u, h = torch.randn(2, 3, 8, device=DEVICE), torch.randn(8, device=DEVICE)
    torch.testing.assert_close(elementwise.add_gain(u, h, None), u + h * u)
    assert bool(calls) == (large == 0)
    elementwise.add_gain(u, h, torch.zeros(8, device=DEVICE))
    elementwise.add_gain(u, h.double(), None)
    assert len(calls) == (large == 0)
