"""Sequence packing for a classifier's encoder: no padding, and in the last block only each row's first token.

GLUE's rows are short and uneven: padded to the longest of a batch, two tokens in five are padding, and each of them
costs as much as a real one. Linear maps, norms, activations and adapters work token by token, so the encoder's blocks
can carry the rows one behind the other (`modules.data.packing`); only attention must know where each row begins. The
heads read each row's first token, so the last block computes no other; it takes the others' keys and values alone.
The results are the same up to the rounding of products of another size.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from modules.acceleration.varlen_attention import place_finder, places_of
from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.stack import Stack
from variants.sites.architectures import architecture_of


class Packing:
    """An encoder that takes packed batches (`modules.data.packing`) as well as padded ones. Made by :func:`pack`.

    Attributes:
        excluded: maps that read another tensor than their q, k, v siblings, for ``accelerated(exclude=...)``: the last
            block's queries are those of the rows' first tokens alone.
        first_position: the number of a row's first position in the model.
        overrides: nothing is replaced for single passes.
    """

    overrides = ()

    def __init__(self, model: nn.Module) -> None:
        backbone = model.base_model
        self._blocks = list(backbone.encoder.layer)
        self.excluded = [self._blocks[-1].attention.self.query]
        self.first_position = first_position(model)
        self._hooks = [
            backbone.register_forward_pre_hook(place_finder(_places), with_kwargs=True),
            backbone.encoder.register_forward_hook(_by_row, with_kwargs=True),
        ]
        for block in self._blocks:
            block.forward = functools.partial(_block, block, block is self._blocks[-1])

    def release(self) -> None:
        """Leave the model as it was before: without the hooks, and with its blocks' forward functions."""
        for hook in self._hooks:
            hook.remove()
        for block in self._blocks:
            del block.forward  # the class's own is found again
        self._hooks.clear()
        self._blocks.clear()


def pack(handle: AdaptedModel | Stack) -> Packing | None:
    """Let the encoder of a classifier take packed batches too; None where it cannot.

    It cannot where

    - a layer does not declare ``per_token`` (prefixes act on the sequence), or sits on the attention module itself,
      whose forward function is not called;
    - the model is no classifier of a family that packs (`variants.sites.architectures`) with PyTorch's attention, or
      something else has replaced its blocks' forward functions;
    - the width of the attention heads is no multiple of 8, which varlen attention on a GPU needs.
    """
    model = handle.model
    config = getattr(model, "config", None)
    family = architecture_of(model)
    known = family.packs and not family.causal and getattr(config, "_attn_implementation", None) == "sdpa"
    classifies = type(model).__name__.endswith("ForSequenceClassification")
    if not known or not classifies or config.is_decoder or not all(layer.per_token for layer in handle.layers):
        return None
    if config.hidden_size // config.num_attention_heads % 8:
        return None
    blocks = model.base_model.encoder.layer
    skipped = {id(module) for block in blocks for module in (block.attention, block.attention.self)}
    if any(id(layer.site.module) in skipped for layer in handle.layers):
        return None
    if any(getattr(block.forward, "__func__", None) is not type(block).forward for block in blocks):
        return None
    return Packing(model)


def first_position(model: nn.Module) -> int:
    """The number of a row's first position in a model that packs."""
    return architecture_of(model).first_position(model.config)


def _places(backbone: nn.Module, tokens: Tensor, *layout: Tensor) -> Any:
    return places_of(*layout, tokens.shape[1], backbone)


def _by_row(encoder: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    if kwargs.get("places"):
        output.last_hidden_state = output.last_hidden_state.flatten(0, -2).unsqueeze(1)  # a row is its first token
    return output


def _block(block: nn.Module, last: bool, tokens: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A block's forward function for packed tokens: (S, n, d) -> (S, n, d), or (S, R, d) of the last block.

    Where S is 1 they go on as (n, d): products of matrices need no views, forward and backward. A padded batch takes
    the forward function of the block's class.
    """
    places = kwargs.pop("places", None)
    if places is None:
        return type(block).forward(block, tokens, *args, **kwargs)
    own, every = block.attention.self, tokens.flatten(0, -2)
    if len(every) == tokens.shape[-2]:  # one part
        tokens = every
    asked = every.index_select(0, places.first).view(*tokens.shape[:-2], -1, tokens.shape[-1]) if last else tokens
    query, key, value = own.query(asked), own.key(tokens), own.value(tokens)
    dropout = own.dropout.p if own.training else 0.0
    found = places.attend(*(x.flatten(0, -2) for x in (query, key, value)), own.scaling, dropout, last)
    attended = block.attention.output(found if tokens is every else found.view(query.shape), asked)
    return block.output(block.intermediate(attended), attended)
