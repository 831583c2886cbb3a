"""Sequence packing for decoders: rows one behind the other without padding, and no attention from one to another.

All but attention computes token by token, and positions are numbered from each row's start, so that only attention
must know where rows begin. transformers' decoders look their attention up by name, and hand it the keyword arguments
that the model was called with: for the time of a pass it has the name of one that finds the rows there.
"""

from __future__ import annotations

from typing import Any

import transformers
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from transformers import AttentionInterface

from modules.acceleration.unmasked_attention import configs_of, windows_below
from modules.acceleration.varlen_attention import place_finder
from modules.acceleration.varlen_causal import CausalRows, causal_attention
from variants.acceleration.basics.overrides import Override
from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.stack import Stack
from variants.errors import UserError
from variants.sites.architectures import ARCHITECTURES, architecture_of, model_type

NAME = "packed_rows"
"""An attention that transformers has no masks for, and so makes none."""


def pack(handle: AdaptedModel | Stack, width: int) -> Packing | None:
    """Let a language model take packed batches too; None where it cannot, and a line says why.

    Args:
        width: tokens of the longest row.
    """
    if reason := why_padded(handle, width):
        if rank_zero_only.rank == 0:
            print(f"batches are padded: {reason}", flush=True)
        return None
    return Packing(handle.model)


class Packing:
    """A decoder that takes packed batches (`modules.data.packing`) as well as padded ones, whose padding comes behind
    the tokens. Made by :func:`pack`.

    Attributes:
        excluded: no map, see `modules.acceleration.packed_encoder.Packing`.
        first_position: the number of a row's first position in the model.
        overrides: what is replaced in its forward passes, and when their blocks are computed again.
    """

    excluded: tuple[nn.Module, ...] = ()

    def __init__(self, model: nn.Module) -> None:
        AttentionInterface.register(NAME, _attend)
        self.first_position = architecture_of(model).first_position(model.config)
        self.overrides: list[Override] = [(c, "_attn_implementation_internal", NAME) for c in configs_of(model)]
        backbone = model.base_model
        self._hooks = [
            backbone.register_forward_pre_hook(place_finder(_rows_of), with_kwargs=True),
            backbone.register_forward_hook(_check, with_kwargs=True),
        ]

    def release(self) -> None:
        """Leave the model as it was before."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def why_padded(handle: AdaptedModel | Stack, width: int) -> str:
    """Why a language model's batches must be padded; empty where they can be packed.

    Args:
        width: tokens of the longest row.
    """
    model, family = handle.model, architecture_of(handle.model)
    name, configs = type(model).__name__, configs_of(model)
    if others := [type(layer).__name__ for layer in handle.layers if not layer.per_token]:
        return f"{others[0]} looks at other tokens than its own"
    if not (family.causal and family.packs and getattr(model, "_supports_attention_backend", False)):
        return f"in {name} more than PyTorch's attention may look at other tokens"
    if any(config._attn_implementation != "sdpa" for config in configs):
        return f"{name} does not have PyTorch's attention (sdpa)"
    if shorter := windows_below(configs, width, exact=model_type(model) in ARCHITECTURES):
        return f"{name} has an attention to {shorter} tokens at most, and rows have up to {width}"
    return ""


def _rows_of(backbone: nn.Module, tokens: Tensor, *layout: Tensor) -> CausalRows:
    return CausalRows(*layout, tokens.shape[1])


def _check(backbone: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
    """Refuse a pass in which rows have seen each other."""
    if (places := kwargs.get("places")) is not None and not places.found:
        raise UserError(
            f"{type(backbone).__name__} does not tell its attention where packed rows begin (transformers "
            f"{transformers.__version__}): train it with --pad max, or with --reference"
        )


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    places: CausalRows | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """As transformers calls attention: query (S, heads, n, d), key (S, kv_heads, n, d) -> (S, n, heads, v), None."""
    for name in ("softcap", "position_bias", "s_aux"):
        if options.get(name) is not None:
            raise ValueError(f"{type(module).__name__} wants attention with {name}, which this one does not have")
    if places is None:
        return causal_attention(query, key, value, scaling, dropout, sliding_window).transpose(1, 2).contiguous(), None
    places.found = True
    of_tokens = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    found = places.attend(*of_tokens, scaling, dropout, sliding_window)
    return found.unflatten(0, (len(query), -1)), None
