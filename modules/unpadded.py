"""A classifier's encoder on a CPU without what its answer does not need: padding, and the last block's other tokens.

GLUE's rows are short and uneven: padded to the longest of a batch, two tokens in five are padding, and on a CPU each of
them costs what a real one does. Linear maps, norms, activations and adapters work token by token, so the encoder's
blocks can carry (1, real tokens, d) in place of (rows, T, d); attention alone puts the rows back in place. The heads
read each row's first token, so the last block computes that one alone: its keys and values are all that it takes from
the others. What is computed is what it was, up to the rounding of products of another size. On a GPU, where a step is
a graph of one shape for each length, all stays as transformers has it.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from variants.adapted import Adapted

MODELS = ("bert", "roberta", "xlm-roberta", "camembert")
"""Model types with blocks of BERT's parts, which get the encoder's keyword arguments, and whose heads for sequence
classification read the first token."""


class Places(NamedTuple):
    """Where the N real tokens of a batch (rows, T), counted row after row, are, for attention with some heads.

    Attributes:
        tokens: (N,) places of the tokens among the rows * T.
        first: (rows,) the first token of each row.
        index: (N * heads,) places of the tokens' parts, one for each head, among the rows * heads * T.
        source: (rows * heads * T,) the part that is found at each place; where there is none, one of the row's last.
        real: (rows * heads, T, 1) 1 at a token, elsewhere 0.
        bias: (rows * heads, 1, T) 0 at a token, elsewhere -inf.
    """

    tokens: Tensor
    first: Tensor
    index: Tensor
    source: Tensor
    real: Tensor
    bias: Tensor

    @classmethod
    def of(cls, mask: Tensor, heads: int) -> Places:
        """The places of a mask (rows, T) that is 1 at tokens, which come before the padding of their row."""
        rows, width = mask.shape
        lengths = mask.sum(1, keepdim=True)
        first = lengths.cumsum(0) - lengths
        head = torch.arange(heads)
        row, column = mask.nonzero().unbind(1)
        index = (row.unsqueeze(1) * heads + head) * width + column.unsqueeze(1)
        token = first + torch.arange(width).minimum(lengths - 1)
        source = token.unsqueeze(1) * heads + head.unsqueeze(1)
        real = mask.repeat_interleave(heads, 0).float()
        bias = torch.zeros_like(real).masked_fill_(real == 0, -torch.inf)
        places = (row * width + column, first.flatten(), index.flatten(), source.flatten())
        return cls(*places, real.unsqueeze(2), bias.unsqueeze(1))

    def apart(self, tokens: Tensor) -> Tensor:
        """(N, heads * d) -> (rows * heads, T, d)."""
        many, width, _ = self.real.shape
        parts = tokens.reshape(len(self.index), -1)
        return parts.index_select(0, self.source).view(many, width, -1)

    def together(self, parts: Tensor) -> Tensor:
        """(rows * heads, T, d) -> (N, heads * d)."""
        return parts.flatten(0, 1).index_select(0, self.index).view(len(self.tokens), -1)


class _Attention(torch.autograd.Function):
    """Softmax attention within rows. Products of many small matrices are fast where none of them is transposed by the
    product itself, which is why it is written out, with its gradient."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, places: Places, scale: float, dropout: float
    ) -> Tensor:
        ctx.places, ctx.scale, ctx.shape = places, scale, query.shape
        ctx.all = len(query) == len(places.tokens)
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


def unpad(adapted: Adapted) -> bool:
    """Let the encoder of a classifier leave out what its answer does not need, where that can be; whether it can.

    It cannot where a layer does not say that it works token by token (prefixes act on the sequence), or the model is
    no classifier of `MODELS` with PyTorch's attention.
    """
    model = adapted.model
    config = getattr(model, "config", None)
    known = getattr(config, "model_type", None) in MODELS and getattr(config, "_attn_implementation", None) == "sdpa"
    classifies = type(model).__name__.endswith("ForSequenceClassification")
    if not known or not classifies or config.is_decoder or not all(layer.per_token for layer in adapted.layers):
        return False
    backbone = model.base_model
    blocks = backbone.encoder.layer
    skipped = {id(module) for block in blocks for module in (block.attention, block.attention.self)}
    if any(id(layer.site.module) in skipped for layer in adapted.layers):
        return False
    backbone.register_forward_pre_hook(_find_places, with_kwargs=True)
    backbone.encoder.register_forward_pre_hook(_without_padding, with_kwargs=True)
    backbone.encoder.register_forward_hook(_by_row, with_kwargs=True)
    for block in blocks:
        block.forward = functools.partial(_block, block, block is blocks[-1])
    return True


def _find_places(backbone: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    mask = kwargs.get("attention_mask")
    if mask is not None and mask.ndim == 2 and mask.device.type == "cpu" and _starts_rows(mask):
        kwargs["places"] = Places.of(mask, backbone.config.num_attention_heads)  # transformers hands it on to blocks
    return args, kwargs


def _starts_rows(mask: Tensor) -> bool:
    """Whether tokens come before padding in all rows, at least one in each."""
    return bool(mask[:, 0].all() and (mask[:, 1:] <= mask[:, :-1]).all())


def _without_padding(encoder: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    if places := kwargs.get("places"):
        args = (args[0].flatten(0, 1).index_select(0, places.tokens).unsqueeze(0), *args[1:])
    return args, kwargs


def _by_row(encoder: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    if kwargs.get("places"):
        output.last_hidden_state = output.last_hidden_state.transpose(0, 1)  # (rows, 1, d): a row is its first token
    return output


def _block(block: nn.Module, last: bool, tokens: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A block's forward function: tokens (1, N, d) give as many, of the last block (1, rows, d)."""
    places = kwargs.pop("places", None)
    if places is None:
        return type(block).forward(block, tokens, *args, **kwargs)
    own = block.attention.self
    asked = tokens.index_select(1, places.first) if last else tokens
    products = [own.query(asked), own.key(tokens), own.value(tokens)]
    dropout = own.dropout.p if own.training else 0.0
    mixed = attention(*(product.squeeze(0) for product in products), places, own.scaling, dropout)
    attended = block.attention.output(mixed.unsqueeze(0), asked)
    return block.output(block.intermediate(attended), attended)
