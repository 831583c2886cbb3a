"""What can be known of a model family, and the layouts of fused maps; the facts stand in `architectures`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Layout = tuple[int, tuple[int, ...]]
"""How a fused map's output features are shared out: they fall into so many equal groups, one behind the other, and
each group into consecutive parts of these proportions."""


@dataclass(frozen=True)
class Fused:
    """One linear map that computes several roles.

    Attributes:
        pattern: regular expression for the end of the map's name.
        roles: what its parts are, in their order.
        layout: from the model's configuration.
    """

    pattern: str
    roles: tuple[str, ...]
    layout: Callable[[Any], Layout]


@dataclass(frozen=True)
class Architecture:
    """What is known of a family of models. Names are ends of modules' names in transformers, as regular expressions.

    Attributes:
        names: transformers' ``config.model_type``, or diffusers' class, of every model that this row describes.
        maps: role (q, k, v, o, added, gate, up, down, conv) -> name of the linear maps that have it.
        fused: maps that have several roles.
        cross: found in the names of attention to another sequence, whose keys and values read what queries do not.
        last_norm: name of the LayerNorm that ends a block; empty where a block ends by adding the residual.
        norms: name of the LayerNorms, where they are none of PyTorch's.
        biases: names of bias vectors that are called otherwise than ``bias``.
        poolers: children of the backbone that pretraining leaves out: part of the task head, never adapted.
        pretrained: children of the backbone, or beside it, that pretraining has trained though only heads use them:
            frozen with the backbone, unless the checkpoint lacks them.
        heads: the model's children and parameters that are its task head; empty where all outside the backbone is.
        decoder: child of the backbone that a language model's head calls by itself.
        pools_first_token: heads read the first token: a prefix follows it, elsewhere it comes first.
        learns_positions: there is an embedding for each position, and none beyond the last.
        positions_follow_padding: positions are numbered from the padding index + 1.
        takes_prefix: `variants.prefix_room` can lengthen its sequences.
        apart: rows of its blocks that are numbered each for itself.
        packs: rows can lie one behind the other. An encoder has blocks of BERT's parts, which get its keyword
            arguments, and its heads for sequence classification read the first token; in a language model attention
            alone looks at other tokens, by PyTorch's function, and gets the model's keyword arguments.
        transposed: all maps in its blocks keep their weight as (in, out).
        causal: it is a language model that reads from left to right.
        dropout: the configuration's options for dropout in the backbone.
    """

    names: tuple[str, ...] = ()
    maps: Mapping[str, str] = field(default_factory=dict)
    fused: tuple[Fused, ...] = ()
    cross: str = r"cross"
    last_norm: str = ""
    norms: str = ""
    biases: tuple[str, ...] = ()
    poolers: tuple[str, ...] = ()
    pretrained: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    decoder: str = ""
    pools_first_token: bool = False
    learns_positions: bool = False
    positions_follow_padding: bool = False
    takes_prefix: bool = True
    apart: tuple[str, ...] = ()
    packs: bool = False
    transposed: bool = False
    causal: bool = False
    dropout: tuple[str, ...] = ()

    def alias(self, packs: bool) -> Architecture:
        """What is known of a model type whose maps are this family's, and its attention as far as it ``packs``."""
        layout = {key: getattr(self, key) for key in ("maps", "fused", "cross", "transposed", "causal")}
        return Architecture(**layout, takes_prefix=False, packs=packs and self.packs and self.causal)

    @property
    def roles(self) -> tuple[str, ...]:
        """Every role that a target can name."""
        return (*self.maps, *(role for fused in self.fused for role in fused.roles))

    def first_position(self, config: Any) -> int:
        """The number of a sequence's first position."""
        return (config.pad_token_id or 0) + 1 if self.positions_follow_padding else 0


# ---- layouts of fused maps ---------------------------------------------------------------------------------------


def in_thirds(config: Any) -> Layout:
    """All queries, then all keys, then all values."""
    return 1, (1, 1, 1)


def grouped_queries(config: Any) -> Layout:
    """All queries, then the keys and then the values of fewer heads."""
    return 1, (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)


def head_by_head(config: Any) -> Layout:
    """Query, key and value of the first head, then those of the second: ``view(heads, 3, head_dim)``."""
    return config.num_attention_heads, (1, 1, 1)


def falcon(config: Any) -> Layout:
    """Three layouts, as ``FalconAttention._split_heads`` has them."""
    if config.new_decoder_architecture:  # each group of queries, then its key and its value
        return config.num_kv_heads, (config.num_attention_heads // config.num_kv_heads, 1, 1)
    return (1, (config.num_attention_heads, 1, 1)) if config.multi_query else head_by_head(config)


def latent(config: Any) -> Layout:
    """Key and value of the first head, then those of the second; a key's part without positions alone is in it."""
    return config.num_attention_heads, (config.qk_nope_head_dim, config.v_head_dim)


def queries_values_keys(config: Any) -> Layout:
    """In four parts, as CodeGen was trained on four devices: the queries of each, then its values, then its keys."""
    return 4, (1, 1, 1)


def bigcode(config: Any) -> Layout:
    """All queries, then one key and one value that all heads share; without that, head by head."""
    return (1, (config.n_head, 1, 1)) if config.multi_query else (config.n_head, (1, 1, 1))


def in_halves(config: Any) -> Layout:
    """The gate, then what it gates."""
    return 1, (1, 1)
