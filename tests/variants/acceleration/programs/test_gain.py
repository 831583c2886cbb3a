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


WAYS = ("kept", "undone", "computed again")


def options(way: str, u: torch.Tensor) -> dict:
    """How the gain's gradient gets u."""
    return {"undone": {"undo": True}, "computed again": {"again": u.detach}}.get(way, {})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_any_gain_has_its_gradient(way, dtype):
    """Gains of 0, 1, below 0, tiny and large, however outputs before the gain are had."""
    from variants.acceleration.programs.gain import gained

    torch.manual_seed(0)
    h = torch.tensor([-1.0, 0.0, -2.0, -1 + 2**-7, 4.0, -0.3], device=DEVICE).to(dtype).requires_grad_()
    u = torch.randn(600, len(h), device=DEVICE).to(dtype).requires_grad_()
    pulled = torch.randn_like(u)
    y = gained(u, h, **options(way, u))
    of_u, of_h = torch.autograd.grad(y, [u, h], pulled)
    u, h, pulled = (x.detach().double() for x in (u, h, pulled))
    near = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.005}[dtype]
    torch.testing.assert_close(y.double(), (1 + h) * u, rtol=near, atol=1e-15)
    torch.testing.assert_close(of_u.double(), (1 + h) * pulled, rtol=near, atol=1e-15)
    torch.testing.assert_close(of_h.double(), (u * pulled).sum(0), rtol=near, atol=20 * near)


@pytest.mark.parametrize(("way", "kept"), [("kept", "u"), ("undone", "y"), ("computed again", "")])
def test_what_is_kept(way, kept):
    """One large tensor, or none; and none at all where nobody wants the gain's gradient."""
    from variants.acceleration.programs.gain import gained

    u, h = torch.randn(4, 6, device=DEVICE, requires_grad=True), torch.randn(6, device=DEVICE, requires_grad=True)
    for gain, expected in ((h, kept), (h.detach(), "")):
        y = gained(u, gain, **options(way, u))
        saved = [tensor.data_ptr() for tensor in y.grad_fn.saved_tensors]
        assert saved == [{"u": u, "y": y}[name].data_ptr() for name in expected]
        torch.testing.assert_close(torch.autograd.grad(y.sum(), u)[0], (1 + gain).detach().expand(4, 6))


@pytest.mark.parametrize("large", [0, 2**30])
def test_large_outputs_without_a_bias_take_the_program(large, monkeypatch):
    """And the sum is the same the other way."""
    from variants.acceleration.programs import gain

    calls, own = [], gain.gained
    monkeypatch.setattr(gain, "gained", lambda *args: calls.append(1) or own(*args))
    monkeypatch.setattr(elementwise, "has_triton", lambda x: True)
    monkeypatch.setattr(policy, "LARGE", large)
    u, h = torch.randn(2, 3, 8, device=DEVICE), torch.randn(8, device=DEVICE)
    torch.testing.assert_close(elementwise.add_gain(u, h, None), u + h * u)
    assert bool(calls) == (large == 0)
    elementwise.add_gain(u, h, torch.zeros(8, device=DEVICE))
    elementwise.add_gain(u, h.double(), None)
    assert len(calls) == (large == 0)
