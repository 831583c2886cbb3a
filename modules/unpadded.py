"""A classifier's encoder without what its answer does not need: padding, and the last block's other tokens.

GLUE's rows are short and uneven: padded to the longest of a batch, two tokens in five are padding, and each of them
costs what a real one does. Linear maps, norms, activations and adapters work token by token, so the encoder's blocks
can carry the rows one behind the other (`modules.packed`); attention alone must know where each begins. The heads read
each row's first token, so the last block computes that one alone: its keys and values are all that it takes from the
others. What is computed is what it was, up to the rounding of products of another size.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from modules.packed import up_to_64s
from variants.adapted import Adapted
from variants.prepared import LOW_PRECISION
from variants.stacked import Stack

MODELS = ("bert", "roberta", "xlm-roberta", "camembert")
"""Model types with blocks of BERT's parts, which get the encoder's keyword arguments, and whose heads for sequence
classification read the first token."""
FLASH_ABOVE = 64
"""Tokens of a row, on average, above which flash attention is used on a GPU: its blocks of 128 are slower for shorter
rows (by 1.6 and 2.3 for 32 and 160 rows of 24 to 48 tokens on an H100), faster for longer ones (1.4 and 1.2 for 64 to
128 tokens, 2 for 128 to 256)."""


class Places(NamedTuple):
    """Where the N tokens of rows that lie one behind the other are, for attention with some heads on a CPU.

    Attributes:
        first: (rows,) the first token of each row.
        index: (N * heads,) places of the tokens' parts, one for each head, among the rows * heads * T.
        source: (rows * heads * T,) the part that is found at each place; where there is none, one of the row's last.
        real: (rows * heads, T, 1) 1 at a token, elsewhere 0.
        bias: (rows * heads, 1, T) 0 at a token, elsewhere -inf.
    """

    first: Tensor
    index: Tensor
    source: Tensor
    real: Tensor
    bias: Tensor

    @classmethod
    def of(cls, lengths: Tensor, heads: int) -> Places:
        """The places of rows of these lengths (rows,)."""
        rows, width = len(lengths), int(lengths.max())
        first = lengths.cumsum(0) - lengths
        head, place = torch.arange(heads), torch.arange(width)
        row = torch.arange(rows).repeat_interleave(lengths)
        column = torch.arange(len(row)) - first[row]
        index = (row.unsqueeze(1) * heads + head) * width + column.unsqueeze(1)
        token = first.unsqueeze(1) + place.minimum(lengths.unsqueeze(1) - 1)
        source = token.unsqueeze(1) * heads + head.unsqueeze(1)
        real = (place < lengths.unsqueeze(1)).repeat_interleave(heads, 0).float()
        bias = torch.zeros_like(real).masked_fill_(real == 0, -torch.inf)
        return cls(first, index.flatten(), source.flatten(), real.unsqueeze(2), bias.unsqueeze(1))

    def apart(self, tokens: Tensor) -> Tensor:
        """(N, heads * d) -> (rows * heads, T, d)."""
        many, width, _ = self.real.shape
        parts = tokens.reshape(len(self.index), -1)
        return parts.index_select(0, self.source).view(many, width, -1)

    def together(self, parts: Tensor) -> Tensor:
        """(rows * heads, T, d) -> (N, heads * d)."""
        heads = len(self.real) // len(self.first)
        return parts.flatten(0, 1).index_select(0, self.index).view(len(self.index) // heads, -1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float, dropout: float, first: bool) -> Tensor:
        """Attention of tokens (S, n, d), the queries with ``first`` those of the first tokens (S, R, d)."""
        return attention(*(x.flatten(0, 1) for x in (query, key, value)), self, scale, dropout).view(query.shape)


class Sequences(NamedTuple):
    """Where rows begin and end among S * n tokens on a GPU.

    Attributes:
        ends: (1 + S * (R + K),) int32: 0, then where each row or piece of what is unused ends.
        asked: of the same shape: how many of the rows' first tokens come before that.
        first: (S * R,) the first token of each row.
        heads: of the attention.
        longest: tokens that a row or piece may have.
        flash: whether flash attention is used, which is there for 16-bit numbers alone.
    """

    ends: Tensor
    asked: Tensor
    first: Tensor
    heads: int
    longest: int
    flash: bool

    @classmethod
    def of(cls, starts: Tensor, ends: Tensor, tokens: int, heads: int, longest: int) -> Sequences:
        """Of ``starts`` (S, R) and ``ends`` (S, R + K) as `modules.packed.Layout` has them in parts of ``tokens``, for
        rows of at most ``longest``."""
        (parts, rows), many = starts.shape, ends.shape[1]
        if parts > 1:
            before = torch.arange(0, parts * tokens, tokens, dtype=ends.dtype, device=ends.device).unsqueeze(1)
            starts, ends = starts + before, ends + before
        asked, ends = _asked(parts, many, rows, ends.device), F.pad(ends.flatten(), (1, 0))
        flash = tokens > FLASH_ABOVE * rows and torch.cuda.get_device_capability(ends.device) >= (8, 0)
        return cls(ends, asked, starts.flatten(), heads, min(up_to_64s(longest), parts * tokens), flash)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float, dropout: float, first: bool) -> Tensor:
        """Attention of tokens (S, n, d), the queries with ``first`` those of the first tokens (S, R, d)."""
        q, k, v = (x.flatten(0, 1).unflatten(-1, (self.heads, -1)) for x in (query, key, value))
        of_queries, most = (self.asked, 1) if first else (self.ends, self.longest)
        if self.flash and q.dtype in LOW_PRECISION:
            found = torch.ops.aten._flash_attention_forward(
                q, k, v, of_queries, self.ends, most, self.longest, dropout, False, False, scale=scale
            )[0]
        else:
            found = torch.ops.aten._efficient_attention_forward(
                *(x.unsqueeze(0) for x in (q, k, v)), None, of_queries, self.ends, most, self.longest, dropout, 0, True,
                scale=scale,
            )[0]  # fmt: skip
        return found.view(query.shape)


@functools.cache
@torch.inference_mode(False)  # it may be made in an evaluation first, and is saved for backward passes later
def _asked(parts: int, many: int, rows: int, device: torch.device) -> Tensor:
    """What `Sequences` says of first tokens, the same for all batches of a shape."""
    one = (torch.arange(many) < rows).repeat(parts)
    return F.pad(one.cumsum(0), (1, 0)).to(device, torch.int32)


class _Attention(torch.autograd.Function):
    """Softmax attention within rows. Products of many small matrices are fast where none of them is transposed by the
    product itself, which is why it is written out, with its gradient."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, places: Places, scale: float, dropout: float
    ) -> Tensor:
        ctx.places, ctx.scale, ctx.shape = places, scale, query.shape
        ctx.all = len(query) == len(key)
        many = len(places.bias)
        q = places.apart(query) if ctx.all else query.reshape(many, 1, -1)
        k, v = places.apart(key), places.apart(value)
        scores = torch.baddbmm(places.bias.to(q.dtype), q, k.transpose(1, 2).contiguous(), alpha=scale)
        weights = torch.softmax(scores, -1).to(q.dtype)
        kept = F.dropout(torch.ones_like(weights), dropout) if dropout else None
        ctx.save_for_backward(q, k, v, weights, kept)
        mixed = torch.bmm(weights if kept is None else weights * kept, v)
        return places.together(mixed) if ctx.all else mixed.view(query.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        q, k, v, weights, kept = ctx.saved_tensors
        places = ctx.places
        of_mixed = places.apart(gradient).mul_(places.real) if ctx.all else gradient.reshape(q.shape)
        of_weights = torch.bmm(of_mixed, v.transpose(1, 2).contiguous())
        of_value = torch.bmm((weights if kept is None else weights * kept).transpose(1, 2), of_mixed)
        if kept is not None:
            of_weights *= kept
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype).mul_(ctx.scale)
        of_query = torch.bmm(of_scores, k)
        of_query = places.together(of_query) if ctx.all else of_query.view(ctx.shape)
        of_key = torch.bmm(of_scores.transpose(1, 2), q)
        return of_query, places.together(of_key), places.together(of_value), None, None, None


def attention(query: Tensor, key: Tensor, value: Tensor, places: Places, scale: float, dropout: float = 0.0) -> Tensor:
    """Softmax attention within rows, without double backward.

    Args:
        query: (N, d), or (rows, d), of the first tokens alone; the result has its shape.
        key, value: (N, d).
        scale: of the products of queries and keys.
        dropout: of the weights.
    """
    return _Attention.apply(query, key, value, places, scale, dropout)


def unpad(handle: Adapted | Stack, longest: int) -> bool:
    """Let the encoder of a classifier take packed batches (`modules.packed`) too; whether it can.

    It cannot where a layer does not say that it works token by token (prefixes act on the sequence), or the model is
    no classifier of `MODELS` with PyTorch's attention and heads that a GPU's kernels take.

    Args:
        longest: tokens that a row may have.
    """
    model = handle.model
    config = getattr(model, "config", None)
    known = getattr(config, "model_type", None) in MODELS and getattr(config, "_attn_implementation", None) == "sdpa"
    classifies = type(model).__name__.endswith("ForSequenceClassification")
    if not known or not classifies or config.is_decoder or not all(layer.per_token for layer in handle.layers):
        return False
    if config.hidden_size // config.num_attention_heads % 8:  # which are PyTorch's own, without what it does for others
        return False
    backbone = model.base_model
    blocks = backbone.encoder.layer
    skipped = {id(module) for block in blocks for module in (block.attention, block.attention.self)}
    if any(id(layer.site.module) in skipped for layer in handle.layers):
        return False
    backbone.register_forward_pre_hook(functools.partial(_find_places, longest), with_kwargs=True)
    backbone.encoder.register_forward_hook(_by_row, with_kwargs=True)
    for block in blocks:
        block.forward = functools.partial(_block, block, block is blocks[-1])
    handle.read_apart([blocks[-1].attention.self.query])
    return True


def first_position(model: nn.Module) -> int:
    """The number of a row's first position in a model of `MODELS`."""
    return 0 if model.config.model_type == "bert" else model.config.pad_token_id + 1


def _find_places(longest: int, backbone: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
    """Replace ``starts`` and ``ends`` by what attention needs: transformers hands it on to the blocks."""
    if (ends := kwargs.pop("ends", None)) is not None:
        tokens = next(x for x in (*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if x is not None)
        place = (kwargs.pop("starts"), ends, tokens.shape[1], backbone.config.num_attention_heads)
        kwargs["places"] = _places(*place, longest)
    return args, kwargs


def _places(starts: Tensor, ends: Tensor, tokens: int, heads: int, longest: int) -> Places | Sequences:
    if ends.is_cuda:
        return Sequences.of(starts, ends, tokens, heads, longest)
    if starts.shape != ends.shape:
        raise ValueError("on a CPU packed rows must fill their batch")
    return Places.of((ends - starts).flatten().long(), heads)


def _by_row(encoder: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    if kwargs.get("places"):
        output.last_hidden_state = output.last_hidden_state.flatten(0, 1).unsqueeze(1)  # a row is its first token
    return output


def _block(block: nn.Module, last: bool, tokens: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A block's forward function: tokens (S, n, d) give as many, of the last block (S, R, d)."""
    places = kwargs.pop("places", None)
    if places is None:
        return type(block).forward(block, tokens, *args, **kwargs)
    own = block.attention.self
    asked = tokens.flatten(0, 1).index_select(0, places.first).unflatten(0, (len(tokens), -1)) if last else tokens
    query, key, value = own.query(asked), own.key(tokens), own.value(tokens)
    dropout = own.dropout.p if own.training else 0.0
    attended = block.attention.output(places.attend(query, key, value, own.scaling, dropout, last), asked)
    return block.output(block.intermediate(attended), attended)
