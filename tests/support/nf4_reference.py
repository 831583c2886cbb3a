"""Block-wise quantisation in plain torch, from the papers, to compare bitsandbytes' codes and scales with.

QLoRA (arXiv 2305.14314): section 2 (absmax of a block), section 3 (NormalFloat, double quantisation), appendix E (its
values). FP4 is E2M1 with the values 0, 0.0625, 8, 12, 4, 6, 2, 3 twelfths; scales of 8 bits are of the dynamic type of
arXiv 2110.02861, figure 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

NF4 = torch.tensor([
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
])  # fmt: skip
FP4 = torch.tensor([0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0]) / 12
CODES = {"nf4": NF4, "fp4": torch.cat([FP4, -FP4])}


def dynamic() -> Tensor:
    """The 256 values of 8 bits: a sign, zeros that say the power of ten, and a fraction (arXiv 2110.02861)."""
    values = [0.0, 1.0]
    for power in range(7):
        edges = torch.linspace(0.1, 1, 2**power + 1)
        means = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (power - 6)
        values += [*means.tolist(), *(-means).tolist()]
    return torch.tensor(sorted(values))


def nearest(x: Tensor, code: Tensor) -> Tensor:
    """The number of the nearest value of a code for each of x."""
    values, numbers = code.sort()
    middles = (values[1:].double() + values[:-1].double()) / 2
    return numbers[torch.bucketize(x.double(), middles)]


def blocks(x: Tensor, size: int, code: Tensor, steps: int = 0) -> tuple[Tensor, Tensor]:
    """Codes (n) and the scale of each block (n / size), the largest absolute value in it.

    Args:
        steps: of a grid from -1 to 1 to which values are rounded first, as the library's program for codes of 8 bits on
            a CPU does (measured: its borders lie half-way between points of a grid of 65,535 steps).
    """
    cut = torch.nn.functional.pad(x.flatten(), (0, -x.numel() % size)).view(-1, size)
    scales = cut.abs().amax(1)
    shares = cut * (1 / scales)[:, None]
    if steps:
        shares = ((shares + 1) * 0.5 * steps + 0.5).floor().double() / steps * 2 - 1
    return nearest(shares, code).flatten()[: x.numel()], scales


def quantised(x: Tensor, kind: str, double: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Two codes a byte, the scales (of 8 bits, where they are quantised too), and the matrix that they stand for."""
    code = CODES[kind]
    codes, scales = blocks(x, 64, code)
    packed, kept = (codes[::2] << 4 | codes[1::2]).to(torch.uint8)[:, None], scales
    if double:
        mean = scales.mean()
        kept, second = blocks(scales - mean, 256, dynamic(), steps=65535)
        scales = dynamic()[kept] * second.repeat_interleave(256)[: len(kept)] + mean
        kept = kept.to(torch.uint8)
    dense = code[codes] * scales.repeat_interleave(64)[: x.numel()]
    return packed, kept, dense.view_as(x)
