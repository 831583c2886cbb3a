"""Ways to keep a matrix in few bits, as the values that its codes stand for: the rows of QLoRA's Table 2.

What the project trains on (`variants.schemes`) is rounded by bitsandbytes, as there. 4-bit integers and the two
floating-point types of the paper's table are written out here for the table alone: nothing trains on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from variants.quantisation import bitsandbytes_maps
from variants.schemes import DOUBLE_BITS, SCHEMES, SINGLE_BITS
from variants.sites.kinds.few_bits import dequantised

BLOCK, SCALES = 64, 256
"""Weights that share a scale, and scales that share one of theirs (arXiv 2305.14314, section 3)."""


class Way(NamedTuple):
    """How a matrix is kept.

    Attributes:
        bits: for each weight, scales included.
        dtype: of 16 bits that it is rounded to; "" of few bits.
        levels: the values of a code, between -1 and 1, in ascending order; none where bitsandbytes has them.
        double: whether the scales of levels are in 8 bits.
    """

    bits: float
    dtype: str = ""
    levels: tuple[float, ...] = ()
    double: bool = False


def _signed(*values: float) -> tuple[float, ...]:
    """Both signs of values that ascend from 0, as shares of the largest."""
    shares = [value / values[-1] for value in values]
    return (*(-share for share in reversed(shares[1:])), *shares)


INT4 = _signed(*range(8))
"""Integers from -7 to 7: round(7 w / max |w|), as the paper's eq. 1 has it for 8 bits."""
E2M1 = _signed(0, 0.5, 1, 1.5, 2, 3, 4, 6)
"""2 bits of exponent, 1 of mantissa."""
E3M0 = _signed(0, *(2.0**k for k in range(7)))
"""3 bits of exponent: powers of two."""

WAYS: Mapping[str, Way] = {
    "bf16": Way(16.0, "bfloat16"),
    "fp16": Way(16.0, "float16"),
    "int8": Way(SCHEMES["int8"].bits),
    "int4": Way(SINGLE_BITS, levels=INT4),
    "int4-dq": Way(DOUBLE_BITS, levels=INT4, double=True),
    "fp4-e2m1": Way(SINGLE_BITS, levels=E2M1),
    "fp4-e3m0": Way(SINGLE_BITS, levels=E3M0),
    **{name: Way(SCHEMES[name].bits) for name in ("fp4", "fp4-dq", "nf4", "nf4-dq")},
}
"""By name. `fp4` is bitsandbytes' E2M1, whose smallest value is 1/16 where that of `fp4-e2m1` is 1."""


@torch.no_grad()
def rounded(matrix: Tensor, way: str) -> Tensor:
    """The values that a matrix (out, in) in fp32 stands for when it is kept in one of `WAYS`.

    Raises:
        VariantError: bitsandbytes is not installed.
    """
    how = WAYS[way]
    if how.dtype:
        return matrix.to(getattr(torch, how.dtype)).to(matrix.dtype)
    library = bitsandbytes_maps()
    if not how.levels:
        scheme = SCHEMES[way]
        return dequantised(library.packed(matrix, scheme.quant_type, scheme.double)).to(matrix.dtype)
    blocks = F.pad(matrix.flatten(), (0, -matrix.numel() % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1)
    levels = torch.tensor(how.levels, dtype=matrix.dtype, device=matrix.device)
    shares = blocks / scales.clamp(min=torch.finfo(matrix.dtype).tiny)[:, None]
    codes = torch.bucketize(shares, (levels[1:] + levels[:-1]) / 2)
    if how.double:
        scales = _eight_bits(scales)
    return (levels[codes] * scales[:, None]).flatten()[: matrix.numel()].view_as(matrix)


def _eight_bits(scales: Tensor) -> Tensor:
    """Scales quantised as bitsandbytes quantises those of its own codes: their mean is taken off first."""
    from bitsandbytes import functional

    mean = scales.mean()
    codes, state = functional.quantize_blockwise(scales - mean, blocksize=SCALES)
    return functional.dequantize_blockwise(codes, state) + mean
