"""Varlen attention: within the rows of a packed batch (`modules.data.packing`), as each device does it best."""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.acceleration.varlen_cpu import Places
from variants.acceleration.basics.policy import pays
from variants.acceleration.basics.torch_private import flash_attention
from variants.errors import first_line
from variants.layer import LOW_PRECISION
from variants.sites.site import Site

FLASH_ABOVE = 64
"""Mean tokens of a row above which flash attention is used on a GPU. Shorter rows are computed by one Triton program
each, in a CUDA graph or of large batches: starting such programs costs the host more than flash attention does."""
SHORT = 128
"""Most tokens of a row that one Triton program computes."""


def places_of(
    starts: Tensor, ends: Tensor, columns: Tensor, tokens: int, backbone: nn.Module
) -> Places | Padded | Sequences:
    """The bounds of packed rows in the form that attention needs on this device and in this dtype.

    Args:
        starts, ends, columns: of a `modules.data.packing.Layout`, in parts of ``tokens`` each.
        backbone: whose blocks attend.

    Raises:
        ValueError: on a CPU, rows do not fill their batch.
    """
    heads, kind = backbone.config.num_attention_heads, ends.device.type
    if kind == "cpu":
        if starts.shape != ends.shape:
            raise ValueError("on a CPU packed rows must fill their batch")
        return Places.of((ends - starts).flatten().long(), heads)
    own = backbone.encoder.layer[0].attention.self
    dtype = _autocast_dtype() or Site(own.query, "", "").dtype
    (_, rows), width = starts.shape, columns.shape[1]
    recent, low = torch.cuda.get_device_capability(ends.device) >= (8, 0), dtype in LOW_PRECISION
    hidden = backbone.config.hidden_size
    faster = tokens <= FLASH_ABOVE * rows and pays(len(starts) * tokens * hidden * dtype.itemsize)
    fits = width <= SHORT and (faster if low else dtype == torch.float32)
    if recent and fits and _has_programs(ends.device, dtype, width, heads, hidden // heads):
        return Sequences.of(starts, ends, tokens, heads, width, flash=False)
    if recent and low:
        return Sequences.of(starts, ends, tokens, heads, width, flash=True)
    return Padded.of(starts, ends[:, :rows], tokens, columns[0], heads, dtype)


def _autocast_dtype() -> torch.dtype | None:
    """What attention on a GPU computes in under autocast; None where that is off."""
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None


@functools.cache
def _has_programs(device: torch.device, dtype: torch.dtype, width: int, heads: int, d: int) -> bool:
    """Whether `modules.acceleration.varlen_triton` can be had.

    Triton comes with PyTorch on Linux, but wants a C compiler and Python's headers too, and a program may need more
    memory than a GPU's processor has.
    """
    if importlib.util.find_spec("triton") is None:
        return False
    from modules.acceleration.varlen_triton import attention

    try:
        with torch.inference_mode(False), torch.enable_grad():
            row = torch.zeros(1, heads * d, dtype=dtype, device=device, requires_grad=True)
            bounds = torch.tensor([0, 1], dtype=torch.int32, device=device)
            torch.autograd.grad(attention(row, row, row, bounds, bounds, heads, width, 1.0, 0.0), row, row.detach())
    except Exception as error:
        warnings.warn(
            f"attention within short rows goes a slower way, since Triton cannot: {first_line(error)}", stacklevel=2
        )
        return False
    return True


class Padded(NamedTuple):
    """Attention of padded rows, on a GPU where nothing is faster: N = S * n packed tokens as S * R rows of T places.

    (PyTorch's memory-efficient attention of rows one behind the other must not drop anything: its forward pass counts
    random numbers by a number of keys that it takes to be 0, its backward pass by the true one. ATen's attention.cu,
    https://github.com/pytorch/pytorch/issues/115590.)

    Attributes:
        first: (S * R,) the first token of each row.
        index: (N,) the place of each token among S * R * T; of what is unused, any.
        source: (S * R * T,) the token at each place; where there is none, the row's last.
        bias: (S * R, 1, 1, T) 0 at a token, elsewhere -inf.
        heads: of the attention.
    """

    first: Tensor
    index: Tensor
    source: Tensor
    bias: Tensor
    heads: int

    @classmethod
    def of(cls, starts: Tensor, ends: Tensor, tokens: int, columns: Tensor, heads: int, dtype: torch.dtype) -> Padded:
        """Of ``starts`` and ``ends`` (S, R) in parts of ``tokens``; a row has at most as many as ``columns`` (T,)."""
        first, index, source, beyond = padded_places(starts, ends, tokens, columns)
        bias = torch.zeros(beyond.shape, dtype=dtype, device=starts.device).masked_fill_(beyond, -torch.inf)
        return cls(first, index, source, bias[:, None, None], heads)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float, dropout: float, first: bool) -> Tensor:
        """Attention of tokens (N, heads * d), the queries with ``first`` those of the rows' first tokens."""
        asked = query if first else query.index_select(0, self.source)
        apart = asked, *(x.index_select(0, self.source) for x in (key, value))
        shape = len(self.first), -1, self.heads, query.shape[1] // self.heads
        q, k, v = (x.reshape(shape).transpose(1, 2) for x in apart)
        bias = self.bias.to(q.dtype)
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, scale=scale)
        found = found.transpose(1, 2).flatten(0, 1).flatten(1)
        return found if first else found.index_select(0, self.index)


class Sequences(NamedTuple):
    """Varlen attention on a GPU: where rows begin and end among S * n packed tokens (``cu_seqlens`` elsewhere).

    Attributes:
        ends: (1 + S * (R + K),) int32: 0, then where each row, or piece of the unused tokens, ends.
        asked: of the same shape, for queries of the rows' first tokens alone: how many of them come before that end.
        first: (S * R,) the first token of each row.
        heads: of the attention.
        width: tokens that a row or piece may have.
        flash: whether flash attention is used; else `modules.acceleration.varlen_triton`.
    """

    ends: Tensor
    asked: Tensor
    first: Tensor
    heads: int
    width: int
    flash: bool

    @classmethod
    def of(cls, starts: Tensor, ends: Tensor, tokens: int, heads: int, width: int, flash: bool) -> Sequences:
        """Of ``starts`` (S, R) and ``ends`` (S, R + K) as a `Layout` has them in parts of ``tokens``."""
        (parts, rows), many = starts.shape, ends.shape[1]
        asked, ends = _asked(parts, many, rows, ends.device), F.pad(among_all(ends, tokens), (1, 0))
        return cls(ends, asked, among_all(starts, tokens), heads, width, flash)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float, dropout: float, first: bool) -> Tensor:
        """Attention of tokens (N, heads * d), the queries with ``first`` those of the rows' first tokens."""
        of_queries = self.asked if first else self.ends
        if dtype := _autocast_dtype():  # as PyTorch's own attention: with stacked biases maps give fp32
            query, key, value = (x.to(dtype) for x in (query, key, value))
        if self.flash:
            q, k, v = (x.view(len(x), self.heads, -1) for x in (query, key, value))
            widths = 1 if first else self.width, self.width
            found = flash_attention(q, k, v, of_queries, self.ends, *widths, dropout, scale)
            return found.flatten(1)
        from modules.acceleration.varlen_triton import attention  # here, since it needs Triton

        return attention(query, key, value, of_queries, self.ends, self.heads, self.width, scale, dropout)


def place_finder(make: Callable[..., Any]) -> Callable[..., tuple[tuple, dict]]:
    """A forward pre-hook of a backbone: it replaces ``starts``, ``ends`` and ``columns`` of a `Layout` by ``places``,
    which transformers hands on to the blocks.

    Args:
        make: called with the backbone, its input (S, n) or (S, n, d) and the three.
    """

    def find(backbone: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        if (ends := kwargs.pop("ends", None)) is not None:
            tokens = next(x for x in (*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if x is not None)
            kwargs["places"] = make(backbone, tokens, kwargs.pop("starts"), ends, kwargs.pop("columns"))
        return args, kwargs

    return find


def padded_places(starts: Tensor, ends: Tensor, tokens: int, columns: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where packed tokens are among padded rows, and the other way round.

    Args:
        starts, ends: (S, R), in parts of ``tokens``; a row has at most as many as ``columns`` (T,).

    Returns:
        The first token of each row (S * R,), the place of each token among all S * R * T (S * tokens,), of what is
        unused any, the token at each place (S * R * T,), the row's last where there is none, and where that is so
        (S * R, T).
    """
    first, ends, width = among_all(starts, tokens), among_all(ends, tokens), len(columns)
    place, last = first.unsqueeze(1) + columns, (ends - 1).unsqueeze(1)
    token = torch.arange(len(starts) * tokens, dtype=ends.dtype, device=ends.device)
    row = torch.bucketize(token, ends, right=True).clamp_(max=len(ends) - 1)  # the next one, of what is unused
    index = row * width + (token - first[row]).clamp_(0, width - 1)
    return first, index, place.minimum(last).flatten(), place > last


def among_all(places: Tensor, tokens: int) -> Tensor:
    """Places (S, R) in S parts of ``tokens``, as places (S * R,) among all S * tokens."""
    if len(places) > 1:
        before = torch.arange(0, len(places) * tokens, tokens, dtype=places.dtype, device=places.device)
        places = places + before.unsqueeze(1)
    return places.flatten()


@functools.cache
@torch.inference_mode(False)  # it may be made in an evaluation first, and is saved for backward passes later
def _asked(parts: int, many: int, rows: int, device: torch.device) -> Tensor:
    """What `Sequences` says of first tokens, the same for all batches of a shape."""
    one = (torch.arange(many) < rows).repeat(parts)
    return F.pad(one.cumsum(0), (1, 0)).to(device, torch.int32)
