"""A convolution as the linear map of patches that it is: what it multiplies, and what it puts out, as rows.

A kernel (O, C, k, k) is the matrix (O, C·k·k) of a map from patches, in the order of ``torch.nn.Unfold``. Patches are
k² times as large as the image, so they are formed only where something else than a product with a matrix is asked of
them: that product is a convolution of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class Window(NamedTuple):
    """Which patches a convolution takes from images (B, C, ...) of one, two or three dimensions.

    Attributes:
        channels: C.
        kernel, stride, padding, dilation: in each dimension.
    """

    channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(cls, module: nn.Module) -> Window:
        """That of a ``torch.nn.Conv1d``, ``Conv2d`` or ``Conv3d``."""
        return cls(module.in_channels, module.kernel_size, module.stride, module.padding, module.dilation)

    @property
    def reach(self) -> tuple[int, ...]:
        """Pixels from one end of a patch to the other, in each dimension."""
        return tuple(dilation * (size - 1) + 1 for size, dilation in zip(self.kernel, self.dilation, strict=True))

    def kernels(self, matrix: Tensor) -> Tensor:
        """(n, C·k·k) as kernels (n, C, k, k)."""
        return matrix.unflatten(1, (self.channels, *self.kernel))

    def pixels(self, matrix: Tensor) -> Tensor:
        """(n, m) as kernels of one pixel, (n, m, 1, 1)."""
        return matrix[(..., *(None for _ in self.kernel))]

    def convolve(self, x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
        """Patches of (B, C, ...) times the transpose of (n, C·k·k), as images (B, n, ...)."""
        convolve = _CONVOLVE[len(self.kernel)]
        return convolve(x, self.kernels(matrix), bias, self.stride, self.padding, self.dilation)

    def patches(self, x: Tensor) -> Tensor:
        """All patches of (B, C, ...), one beside the other: (B, positions, C·k·k)."""
        x = F.pad(x, [side for size in reversed(self.padding) for side in (size, size)])
        for dim, (reach, stride, dilation) in enumerate(zip(self.reach, self.stride, self.dilation, strict=True), 2):
            x = x.unfold(dim, reach, stride)[..., ::dilation]
        dims = len(self.kernel)
        x = x.permute(0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims))
        return x.flatten(1 + dims).flatten(1, dims)

    def by_rows(self, function: Callable[[Any, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
        """A function of rows (B, positions, ·), of patches and of what the convolution makes of them, for images.

        Args:
            function: gets `Patches` and (B, positions, O); gives the new outputs, of that shape.
            x, y: input (B, C, ...) and output (B, O, ...) of the convolution, or both without B.
        """
        if x.ndim == 1 + len(self.kernel):
            return self.by_rows(function, x[None], y[None])[0]
        new = function(Patches(self, x), in_rows(y))
        return new.mT.unflatten(2, y.shape[2:]).contiguous()


def in_rows(image: Tensor) -> Tensor:
    """(B, n, ...) as (B, positions, n), a view."""
    return image.flatten(2).mT


class Patches:
    """What a convolution multiplies, (B, positions, C·k·k), in place of a tensor: formed only where it must be.

    To PyTorch's functions it is a tensor. Products with a matrix are convolutions of the image, dropout drops its
    pixels, and a cast casts it. All else that is asked is asked of the patches themselves.

    Args:
        window: which patches they are.
        image: (B, C, ...).
    """

    is_nested = False

    def __init__(self, window: Window, image: Tensor) -> None:
        self.window, self.image = window, image

    @property
    def dtype(self) -> torch.dtype:
        """That of the image."""
        return self.image.dtype

    @property
    def device(self) -> torch.device:
        """That of the image."""
        return self.image.device

    @property
    def nbytes(self) -> int:
        """Of what there is, the image."""
        return self.image.nbytes

    def to(self, *args: Any, **kwargs: Any) -> Patches:
        """Patches of the image after a cast, or on another device."""
        return Patches(self.window, self.image.to(*args, **kwargs))

    def formed(self) -> Tensor:
        """(B, positions, C·k·k)."""
        return self.window.patches(self.image)

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function is F.linear and isinstance(args[0], Patches):
            return in_rows(args[0].window.convolve(args[0].image, *args[1:], **kwargs))
        if function is F.dropout:
            return Patches(args[0].window, F.dropout(args[0].image, *args[1:], **kwargs))
        return function(*map(_formed, args), **{name: _formed(value) for name, value in kwargs.items()})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.formed(), name)

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: Any) -> Tensor:
        return self.formed()[index]


def _formed(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_formed, value))
    return value.formed() if isinstance(value, Patches) else value


def _operator(name: str) -> Callable[..., Tensor]:
    def compute(self: Patches, *others: Any) -> Tensor:
        return getattr(self.formed(), name)(*map(_formed, others))

    return compute


for _name in ("add", "sub", "mul", "truediv", "pow", "matmul"):  # Python looks operators up on the class alone
    for _of in (f"__{_name}__", f"__r{_name}__"):
        setattr(Patches, _of, _operator(_of))
Patches.__neg__ = _operator("__neg__")
