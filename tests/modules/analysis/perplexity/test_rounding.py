"""Code books written out, against bitsandbytes' codes and the formulas."""

from __future__ import annotations

import pytest
import torch

from modules.analysis.perplexity.rounding import WAYS, Way, rounded
from tests.support.nf4_reference import CODES, quantised

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install -e '.[quant]'")


def matrix(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_blocks_and_scales_are_those_of_bitsandbytes(monkeypatch, kind: str, double: bool) -> None:
    """With the levels of NF4 and of its FP4 the loop for other code books gives the library's values."""
    levels = tuple(CODES[kind].unique().tolist())
    monkeypatch.setitem(WAYS, "tried", Way(4.5, levels=levels, double=double))  # type: ignore[arg-type]
    x = matrix(30, 80)  # 2,400 values: the last block is not full
    assert torch.allclose(rounded(x, "tried"), quantised(x, kind, double)[2], rtol=1e-6, atol=1e-7)
    assert torch.equal(rounded(x, f"{kind}-dq" if double else kind), quantised(x, kind, double)[2])


def test_four_bit_integers_are_rounded_sevenths_of_the_largest() -> None:
    x = matrix(4, 64)
    most = x.abs().amax(1, keepdim=True)
    assert torch.allclose(rounded(x, "int4"), (7 * x / most).round() * most / 7, atol=1e-6)
    assert (rounded(torch.zeros(2, 64), "int4") == 0).all(), "a block of zeros has no scale"


def test_floating_point_levels() -> None:
    """E2M1: 6 and its halves down to 1, steps of half below; E3M0: powers of two alone."""
    assert {6 * v for v in WAYS["fp4-e2m1"].levels if v >= 0} == pytest.approx({0, 0.5, 1, 1.5, 2, 3, 4, 6})
    assert [v for v in WAYS["fp4-e3m0"].levels if v > 0] == [2.0**k for k in range(-6, 1)]
    for name, way in WAYS.items():
        assert len(way.levels) in (0, 15) and list(way.levels) == sorted(way.levels), name


def test_errors_are_in_the_order_of_what_is_kept() -> None:
    """Of normal weights NF4 loses least of the types of 4 bits, double quantisation hardly more."""
    x = matrix(256, 256)
    off = {name: ((rounded(x, name) - x).norm() / x.norm()).item() for name in WAYS}
    assert off["fp16"] < off["bf16"] < off["int8"] < off["nf4"] < off["int4"]
    assert off["nf4"] < off["fp4-e2m1"] < off["fp4-e3m0"] and off["nf4-dq"] == pytest.approx(off["nf4"], rel=0.01)
