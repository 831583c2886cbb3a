"""Gated activations by Triton programs: PyTorch's numbers, with gains or without; on a CPU they are interpreted."""

from __future__ import annotations

import importlib.util
from functools import partial

import pytest
import torch
import torch.nn.functional as F

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton"),
    pytest.mark.filterwarnings("ignore:overflow encountered in exp"),
]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ACTIVATIONS = {"silu_gated": F.silu, "gelu_gated": partial(F.gelu, approximate="tanh")}
GAINS = {"no gains": "", "both": "hk", "of the gate": "h", "of what it gates": "k"}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("gains", GAINS)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((3, 5), torch.float32), ((2, 70, 130), torch.float32), ((140, 128), torch.bfloat16)],
    ids=["less than a tile", "tiles with an edge, two programs add up", "bf16"],
)
def test_outputs_and_gradients(shape, dtype, gains, name):
    """As in double precision, to the rounding of the dtype."""
    from variants.acceleration.programs import gated

    torch.manual_seed(0)
    inputs = [(2 * torch.randn(shape, device=DEVICE)).to(dtype) for _ in range(2)]
    inputs += [torch.randn(shape[-1], device=DEVICE).to(dtype) for _ in GAINS[gains]]
    pulled = torch.randn(shape, device=DEVICE).to(dtype)

    def own(gate, up, *rest):
        return getattr(gated, name)(gate, up, **dict(zip(GAINS[gains], rest, strict=True)))

    def exact(gate, up, *rest):
        given = dict(zip(GAINS[gains], rest, strict=True))
        return ACTIVATIONS[name]((1 + given.get("h", 0)) * gate) * (1 + given.get("k", 0)) * up

    found = []
    for function, wide in ((own, False), (exact, True)):
        leaves = [(x.double() if wide else x).detach().requires_grad_() for x in inputs]
        y = function(*leaves)
        found.append([y, *torch.autograd.grad(y, leaves, pulled.to(y.dtype))])
    near = 1e-5 if dtype == torch.float32 else 0.01
    for ours, expected in zip(*found, strict=True):
        assert ours.dtype == dtype and ours.shape == expected.shape
        assert (ours.double() - expected).abs().max() <= near * expected.abs().max()


def test_far_numbers():
    """Where the exponential is infinite, or nothing."""
    from variants.acceleration.programs.gated import silu_gated

    gate = torch.tensor([[-1e4, -100.0, 0.0, 100.0, 1e4]], device=DEVICE, requires_grad=True)
    up = torch.full_like(gate, 2.0)
    (found,) = torch.autograd.grad(silu_gated(gate, up).sum(), gate)
    torch.testing.assert_close(silu_gated(gate, up), F.silu(gate) * up)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0, 1.0, 2.0, 2.0]], device=DEVICE))


def test_nothing_is_written_into_what_comes_in():
    """Not backward either, and views come back as they went in."""
    from variants.acceleration.programs.gated import silu_gated

    gate, up = (torch.randn(6, 4, device=DEVICE).mT.requires_grad_() for _ in range(2))
    pulled = torch.randn(6, 4, device=DEVICE).mT
    before = [x.detach().clone() for x in (gate, up, pulled)]
    y = silu_gated(gate, up)
    values = y.detach().clone()
    found = torch.autograd.grad(y, [gate, up], pulled)
    torch.testing.assert_close(found, torch.autograd.grad(F.silu(gate) * up, [gate, up], pulled))
    assert all(torch.equal(x, old) for x, old in zip((gate, up, pulled, y), (*before, values), strict=True))
