"""A classifier's encoder without what its answer does not need: padding, and the last block's other tokens.

GLUE's rows are short and uneven: padded to the longest of a batch, two tokens in five are padding, and each of them
costs what a real one does. Linear maps, norms, activations and adapters work token by token, so the encoder's blocks
can carry the rows one behind the other (`modules.data.packing`); attention alone must know where each begins. The
heads read each row's first token, so the last block computes that one alone: its keys and values are all that it
takes from the others. What is computed is what it was, up to the rounding of products of another size.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn

from modules.acceleration.varlen_attention import places_of
from variants.adapters.adapted_model import Adapted
from variants.adapters.stack import Stack
from variants.sites.architectures import architecture_of


def unpad(handle: Adapted | Stack) -> bool:
    """Let the encoder of a classifier take packed batches (`modules.data.packing`) too; whether it can.

    It cannot where a layer does not say that it works token by token (prefixes act on the sequence), or the model is
    no classifier of a family that packs, with PyTorch's attention and heads that a GPU's kernels take.
    """
    model = handle.model
    config = getattr(model, "config", None)
    known = architecture_of(model).packs and getattr(config, "_attn_implementation", None) == "sdpa"
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
    backbone.register_forward_pre_hook(_find_places, with_kwargs=True)
    backbone.encoder.register_forward_hook(_by_row, with_kwargs=True)
    for block in blocks:
        block.forward = functools.partial(_block, block, block is blocks[-1])
    handle.read_apart([blocks[-1].attention.self.query])
    return True


def first_position(model: nn.Module) -> int:
    """The number of a row's first position in a model that packs."""
    return architecture_of(model).first_position(model.config)


def _find_places(backbone: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
    """Replace ``starts``, ``ends`` and ``columns`` by what attention needs: transformers hands it on to the blocks."""
    if (ends := kwargs.pop("ends", None)) is not None:
        tokens = next(x for x in (*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if x is not None)
        layout = kwargs.pop("starts"), ends, kwargs.pop("columns")
        kwargs["places"] = places_of(*layout, tokens.shape[1], backbone)
    return args, kwargs


def _by_row(encoder: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
    if kwargs.get("places"):
        output.last_hidden_state = output.last_hidden_state.flatten(0, -2).unsqueeze(1)  # a row is its first token
    return output


def _block(block: nn.Module, last: bool, tokens: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A block's forward function: tokens (S, n, d) give as many, of the last block (S, R, d).

    Those of one part go on as (n, d): products of matrices need no views, forward and backward.
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
