"""Linear maps whose parameter is not what they multiply by, or not readable: as other libraries make them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IN, OUT = 8, 6


class Scaled(nn.Linear):
    """Equalised learning rate: the weight is multiplied when it is read."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, 0.5 * self.weight, self.bias)


class Masked(nn.Linear):
    """A pruned map: half of the weight does not count."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * (torch.arange(self.in_features) % 2), self.bias)


class Squashed(nn.Linear):
    """No linear map of its input at all."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(F.linear(x, self.weight, self.bias))


class TakesMore(nn.Linear):
    """It cannot be called with an input alone."""

    def forward(self, x: Tensor, which: int) -> Tensor:
        return F.linear(x, self.weight, self.bias) * which


class Int8(nn.Linear):
    """As weight-only int8 has it: integers in the matrix's shape, and a scale."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.scale = self.weight.detach().abs().max() / 127
        self.weight = nn.Parameter((self.weight.detach() / self.scale).round().to(torch.int8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, (self.weight * self.scale).to(x.dtype), self.bias)


class Packed(nn.Linear):
    """As bitsandbytes keeps 4 bits: two numbers a byte, in a column."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.read = self.weight.detach().clone()
        packed = torch.zeros(self.weight.numel() // 2, 1, dtype=torch.uint8)
        self.weight = nn.Parameter(packed, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.read, self.bias)


class Float8(nn.Linear):
    """As transformers' fp8 models: a byte a number, computed in bf16."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.weight = nn.Parameter(self.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), self.bias)


class Wrapped(Tensor):
    """As torchao's tensors: says that it is float32 of the matrix's shape, and holds integers."""

    @staticmethod
    def __new__(cls, values: Tensor, scale: float) -> Wrapped:
        own = torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=torch.float32)
        own.values, own.scale = values, scale
        return own

    def __tensor_flatten__(self):
        return ["values"], {"scale": self.scale}

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return Wrapped(args[0].values, args[0].scale)
        plain = [a.values.float() * a.scale if isinstance(a, Wrapped) else a for a in args]
        return function(*plain, **(kwargs or {}))


def wrapped(*sizes: int) -> nn.Linear:
    """A plain ``nn.Linear`` with a `Wrapped` weight."""
    module = nn.Linear(*sizes)
    scale = module.weight.detach().abs().max() / 127
    values = (module.weight.detach() / scale).round().to(torch.int8)
    module.weight = nn.Parameter(Wrapped(values, float(scale)), requires_grad=False)
    return module


class Holder(nn.Module):
    """Two such maps, one behind the other, by the names ``plain`` (an ordinary one) and ``odd``."""

    def __init__(self, make) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.plain, self.odd = nn.Linear(IN, IN), make(IN, OUT)

    def forward(self, x: Tensor) -> Tensor:
        return self.odd(self.plain(x))
