"""An encoder on a CPU without its padding: everything but attention sees real tokens alone.

GLUE's rows are short and uneven: padded to the longest of a batch, two tokens in five are padding, and on a CPU each of
them costs what a real one does. Linear maps, norms, activations and adapters work token by token, so the encoder's
blocks can carry (1, real tokens, d) in place of (rows, T, d); attention alone puts the rows back in place. Real tokens
get what they got, up to the rounding of products of another size. On a GPU, where a step is a graph of one shape for
each length, all stays padded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from variants.adapted import Adapted

MODELS = ("bert", "roberta", "xlm-roberta", "camembert")
"""Model types whose blocks work token by token and hand keyword arguments on to their attention."""
_NAME = "lora_variants_unpadded"


class _Place(torch.autograd.Function):
    """Rows (N, d) at the places (N,) of a (size, d) tensor of zeros."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(places)
        return rows.new_zeros(size, rows.shape[1]).index_copy_(0, places, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        return _Take.apply(gradient, *ctx.saved_tensors), None, None


class _Take(torch.autograd.Function):
    """The rows at the places (N,) of a (size, d) tensor; no place comes twice, so the gradient is copied, not added."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.size = len(rows)
        return rows.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        return _Place.apply(gradient, *ctx.saved_tensors, ctx.size), None


class Places(NamedTuple):
    """Where the real tokens of a batch (rows, T) are: `index` (N,), counted row after row."""

    index: Tensor
    rows: int
    width: int

    def pad(self, tokens: Tensor) -> Tensor:
        """(1, N, ...) -> (rows, T, ...), zeros where there is no token."""
        rows = _Place.apply(tokens.reshape(len(self.index), -1), self.index, self.rows * self.width)
        return rows.view(self.rows, self.width, *tokens.shape[2:])

    def take(self, padded: Tensor) -> Tensor:
        """(rows, T, ...) -> (1, N, ...)."""
        tokens = _Take.apply(padded.reshape(self.rows * self.width, -1), self.index)
        return tokens.view(1, len(self.index), *padded.shape[2:])


def unpad(adapted: Adapted) -> bool:
    """Let the encoder of a model compute without padding from now on, where that can be; whether it can.

    It cannot where a layer does not say that it works token by token (prefixes act on the sequence), or the model is
    none of `MODELS` with PyTorch's attention.
    """
    model = adapted.model
    config = getattr(model, "config", None)
    known = getattr(config, "model_type", None) in MODELS and getattr(config, "_attn_implementation", None) == "sdpa"
    if not known or config.is_decoder or not all(layer.per_token for layer in adapted.layers):
        return False
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    model.set_attn_implementation(_NAME)
    backbone = model.base_model
    backbone.register_forward_pre_hook(_find_places, with_kwargs=True)
    backbone.encoder.register_forward_pre_hook(_without_padding, with_kwargs=True)
    backbone.encoder.register_forward_hook(_with_padding, with_kwargs=True)
    return True


def _find_places(backbone: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    mask = kwargs.get("attention_mask")
    if mask is not None and mask.ndim == 2 and mask.device.type == "cpu" and not mask.all():
        kwargs["places"] = Places(mask.flatten().nonzero().flatten(), *mask.shape)  # transformers hands it on to blocks
    return args, kwargs


def _without_padding(encoder: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    if places := kwargs.get("places"):
        args = (places.take(args[0]), *args[1:])
    return args, kwargs


def _with_padding(encoder: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    if places := kwargs.get("places"):
        output.last_hidden_state = places.pad(output.last_hidden_state)
    return output


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' interface: query, key, value (rows, heads, T, d), or (1, heads, N, d) where padding is left out."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    places = options.pop("places", None)
    if places is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    query, key, value = (places.pad(t.transpose(1, 2)).transpose(1, 2) for t in (query, key, value))
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # (rows, T, heads, d)
    return places.take(output), None
