"""A tiny model of convolutions, which is one of ``nn.Linear`` over their patches where that is asked for."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPES = ({"padding": 1}, {"padding": 2, "dilation": 2, "stride": 2}, {"kernel_size": 1})
"""Of each convolution; kernels are 3 x 3 but for the last."""


class TinyImages(nn.Module):
    """Convolutions, one after the other, and a head on the mean of their last image.

    Args:
        width: channels.
        formed: each is a map ``nn.Linear`` of the patches that ``torch.nn.functional.unfold`` forms, with the same
            weights under the same name.
    """

    CHANNELS = 3

    def __init__(self, width: int = 16, formed: bool = False) -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type="")
        self.convs, self.formed = nn.ModuleDict(), formed
        rng = torch.Generator().manual_seed(0)
        for number, options in enumerate(SHAPES):
            into = self.CHANNELS if number == 0 else width
            conv = nn.Conv2d(into, width, **{"kernel_size": 3} | options)
            weight = torch.randn(conv.weight.shape, generator=rng) / conv.weight[0].numel() ** 0.5
            bias = 0.3 * torch.randn(width, generator=rng)
            module = nn.Linear(weight[0].numel(), width) if formed else conv
            module.weight = nn.Parameter(weight.flatten(1) if formed else weight)
            module.bias = nn.Parameter(bias)
            self.convs[f"conv{number}"] = module

    @classmethod
    def inputs(cls) -> Tensor:
        """Images (batch, channels, 7, 6), the same at each call."""
        return torch.randn(4, cls.CHANNELS, 7, 6, generator=torch.Generator().manual_seed(1))

    def forward(self, x: Tensor) -> Tensor:
        """Images (batch, channels, height, width) -> (batch, width)."""
        for map_, options in zip(self.convs.values(), SHAPES, strict=True):
            x = torch.tanh(self._formed(map_, x, {"kernel_size": 3} | options) if self.formed else map_(x))
        return x.mean(dim=(2, 3))

    @staticmethod
    def _formed(linear: nn.Linear, x: Tensor, options: dict[str, int]) -> Tensor:
        y = linear(F.unfold(x, **options).mT).mT
        reach = options.get("dilation", 1) * (options["kernel_size"] - 1)
        height, width = (
            (size + 2 * options.get("padding", 0) - reach - 1) // options.get("stride", 1) + 1 for size in x.shape[2:]
        )
        return y.unflatten(2, (height, width))
