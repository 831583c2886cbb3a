"""Causal varlen attention: a token of a packed batch (`modules.data.packing`) sees its row up to itself."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.acceleration.varlen_attention import among_all, padded_places
from variants.acceleration.basics.torch_private import flash_attention
from variants.layer import LOW_PRECISION

FLASH_WIDTH = 256
"""Most numbers of a head that flash attention takes; they come in eights."""


class CausalRows:
    """The rows of a packed batch of S parts, each of R rows and K pieces of what is unused.

    On a CPU each row is computed by itself, so that nothing of another can be in it; on a GPU flash attention takes
    all of them at once, and where it does not (fp32, heads of odd widths) they are padded for attention alone.

    Args:
        starts, ends, columns: of a `modules.data.packing.Layout`, in parts of ``tokens`` each.
        tokens: of a part.

    Attributes:
        found: whether some attention has asked for them.
    """

    def __init__(self, starts: Tensor, ends: Tensor, columns: Tensor, tokens: int) -> None:
        self.found = False
        self._starts, self._ends, self._columns, self._tokens = starts, ends, columns[0], tokens
        self._bounds = F.pad(among_all(ends, tokens), (1, 0))  # (1 + S * (R + K),) int32

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float | None, dropout: float, window: int | None
    ) -> Tensor:
        """Softmax attention within rows.

        Args:
            query: (N, heads, d), N = S * tokens; key: (N, kv_heads, d); value: (N, kv_heads, v): each of them answers
                heads / kv_heads queries.
            scale: of the products of queries and keys; 1/√d where None.
            dropout: of the weights.
            window: how many tokens a token sees, itself included; None: all of its row.

        Returns:
            (N, heads, v), contiguous.
        """
        kind = query.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        options = {"scale": scale, "dropout": dropout, "window": window}
        if kind == "cpu":
            lengths = self._lengths
            rows = zip(*(x.transpose(0, 1).split(lengths, 1) for x in (query, key, value)), strict=True)
            return torch.cat([causal_attention(*row, **options).transpose(0, 1) for row in rows])
        if self._takes_flash(query, value):
            width = len(self._columns)
            of_rows = self._bounds, self._bounds, width, width
            scale = query.shape[-1] ** -0.5 if scale is None else scale
            return flash_attention(query, key, value, *of_rows, dropout, scale, causal=True, window=window)
        _, index, source, beyond = self._padded
        rows = (x.index_select(0, source).unflatten(0, beyond.shape).transpose(1, 2) for x in (query, key, value))
        return causal_attention(*rows, **options).transpose(1, 2).flatten(0, 1).index_select(0, index)

    @functools.cached_property
    def _lengths(self) -> list[int]:
        """Tokens of each row and piece, on a CPU; they are all that there are."""
        return self._bounds.diff().tolist()

    @functools.cached_property
    def _padded(self) -> tuple[Tensor, ...]:
        """As `padded_places`."""
        return padded_places(self._starts, self._ends[:, : self._starts.shape[1]], self._tokens, self._columns)

    @staticmethod
    def _takes_flash(query: Tensor, value: Tensor) -> bool:
        width = query.shape[-1]
        fits = width == value.shape[-1] and width % 8 == 0 and width <= FLASH_WIDTH
        return fits and query.dtype in LOW_PRECISION and torch.cuda.get_device_capability(query.device) >= (8, 0)


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None, dropout: float, window: int | None
) -> Tensor:
    """PyTorch's causal attention of (..., heads, T, d), in a window where rows are longer than that."""
    tokens = query.shape[-2]
    band = None
    if window is not None and window < tokens:
        band = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril_().triu_(1 - window)
    options = {"dropout_p": dropout, "scale": scale, "enable_gqa": query.shape[-3] != key.shape[-3]}
    return F.scaled_dot_product_attention(query, key, value, attn_mask=band, is_causal=band is None, **options)
