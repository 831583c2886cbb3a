"""Every fact about a model family, in one table: a new family is a new row of `_ROWS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

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
        names: transformers' ``config.model_type`` of every model that this row describes.
        maps: role (q, k, v, o, gate, up, down) -> name of the linear maps that have it.
        fused: maps that have several roles.
        cross: found in the names of attention to another sequence, whose keys and values read what queries do not.
        last_norm: name of the LayerNorm that ends a block; empty where a block ends by adding the residual.
        norms: name of the LayerNorms, where they are none of PyTorch's.
        biases: names of bias vectors that are called otherwise than ``bias``.
        poolers: children of the backbone that belong to the task head: trained with it, never adapted.
        heads: the model's children and parameters that are its task head; empty where all outside the backbone is.
        decoder: child of the backbone that a language model's head calls by itself.
        pools_first_token: heads read the first token: a prefix follows it, elsewhere it comes first.
        learns_positions: there is an embedding for each position, and none beyond the last.
        positions_follow_padding: positions are numbered from the padding index + 1.
        takes_prefix: `variants.methods.prefix` can lengthen its sequences.
        packs: it has blocks of BERT's parts, which get the encoder's keyword arguments, and its heads for sequence
            classification read the first token: what `modules.acceleration.packed_encoder` needs.
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
    heads: tuple[str, ...] = ()
    decoder: str = ""
    pools_first_token: bool = False
    learns_positions: bool = False
    positions_follow_padding: bool = False
    takes_prefix: bool = True
    packs: bool = False
    transposed: bool = False
    causal: bool = False
    dropout: tuple[str, ...] = ()

    @property
    def roles(self) -> tuple[str, ...]:
        """Every role that a target can name."""
        return (*self.maps, *(role for fused in self.fused for role in fused.roles))

    def first_position(self, config: Any) -> int:
        """The number of a sequence's first position."""
        return (config.pad_token_id or 0) + 1 if self.positions_follow_padding else 0


# ---- layouts of fused maps ---------------------------------------------------------------------------------------


def _in_thirds(config: Any) -> Layout:
    """All queries, then all keys, then all values."""
    return 1, (1, 1, 1)


def _grouped_queries(config: Any) -> Layout:
    """All queries, then the keys and then the values of fewer heads."""
    return 1, (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)


def _head_by_head(config: Any) -> Layout:
    """Query, key and value of the first head, then those of the second: ``view(heads, 3, head_dim)``."""
    return config.num_attention_heads, (1, 1, 1)


def _falcon(config: Any) -> Layout:
    """Three layouts, as ``FalconAttention._split_heads`` has them."""
    if config.new_decoder_architecture:  # each group of queries, then its key and its value
        return config.num_kv_heads, (config.num_attention_heads // config.num_kv_heads, 1, 1)
    return (1, (config.num_attention_heads, 1, 1)) if config.multi_query else _head_by_head(config)


def _in_halves(config: Any) -> Layout:
    return 1, (1, 1)


_QKV = ("q", "k", "v")

# ---- what several rows have ----------------------------------------------------------------------------------------

_BERT_OUTPUTS = {"o": r"attention\.output\.dense", "up": r"intermediate\.dense", "down": r"\d+\.output\.dense"}
_BERT = {x[0]: rf"attention\.self\.{x}" for x in ("query", "key", "value")} | _BERT_OUTPUTS
_BERT_NORM = r"\d+\.output\.LayerNorm"
_BERT_DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob")
_BLOOM = {"up": r"mlp\.dense_h_to_4h", "down": r"mlp\.dense_4h_to_h"}
_BLOOM_DROPOUT = ("hidden_dropout", "attention_dropout")
_BART = {x: rf"(?:self_attn|encoder_attn)\.{x}_proj" for x in "qkv"}
_BART |= {"o": r"(?:self_attn|encoder_attn)\.out_proj", "up": r"\d+\.fc1", "down": r"\d+\.fc2"}
_BART_DROPOUT = ("dropout", "attention_dropout", "activation_dropout")

_ROWS = (
    Architecture(
        names=("bert",),
        maps=_BERT,
        last_norm=_BERT_NORM,
        poolers=("pooler",),
        pools_first_token=True,
        learns_positions=True,
        packs=True,
        dropout=_BERT_DROPOUT,
    ),
    Architecture(
        names=("roberta", "xlm-roberta", "camembert"),
        maps=_BERT,
        last_norm=_BERT_NORM,
        poolers=("pooler",),
        pools_first_token=True,
        learns_positions=True,
        positions_follow_padding=True,
        packs=True,
        dropout=_BERT_DROPOUT,
    ),
    Architecture(
        names=("electra",),
        maps=_BERT,
        last_norm=_BERT_NORM,
        pools_first_token=True,
        learns_positions=True,
        dropout=_BERT_DROPOUT,
    ),
    Architecture(
        names=("albert",),  # its blocks are one module, called again and again
        maps={x[0]: rf"attention\.{x}" for x in ("query", "key", "value")}
        | {"o": r"attention\.dense", "up": r"albert_layers\.\d+\.ffn", "down": r"ffn_output"},
        last_norm=r"full_layer_layer_norm",
        poolers=("pooler",),
        pools_first_token=True,
        learns_positions=True,
        dropout=_BERT_DROPOUT,
    ),
    Architecture(
        names=("deberta",),
        maps=_BERT_OUTPUTS,
        fused=(Fused(r"attention\.self\.in_proj", _QKV, _head_by_head),),
        last_norm=_BERT_NORM,
        norms=r"LayerNorm",
        biases=("q_bias", "v_bias"),
        pools_first_token=True,
        dropout=_BERT_DROPOUT,
    ),
    Architecture(
        names=("deberta-v2",),
        maps={x[0]: rf"attention\.self\.{x}_proj" for x in ("query", "key", "value")} | _BERT_OUTPUTS,
        last_norm=_BERT_NORM,
        pools_first_token=True,
        dropout=_BERT_DROPOUT,
    ),
    Architecture(
        names=("distilbert",),
        maps={x: rf"attention\.{x}_lin" for x in "qkv"}
        | {"o": r"attention\.out_lin", "up": r"ffn\.lin1", "down": r"ffn\.lin2"},
        last_norm=r"\.output_layer_norm",
        pools_first_token=True,
        learns_positions=True,
        dropout=("dropout", "attention_dropout"),
    ),
    Architecture(
        names=("modernbert",),
        # the gate and what it gates are the halves of Wi, which is "up" as a whole, as both of T5's maps are
        maps={"o": r"attn\.Wo", "up": r"mlp\.Wi", "down": r"mlp\.Wo"},
        fused=(Fused(r"attn\.Wqkv", _QKV, _in_thirds),),
        pools_first_token=True,
        dropout=("embedding_dropout", "attention_dropout", "mlp_dropout"),
    ),
    Architecture(
        names=("gpt2",),
        maps={"o": r"attn\.c_proj", "up": r"mlp\.c_fc", "down": r"mlp\.c_proj"},
        fused=(Fused(r"attn\.c_attn", _QKV, _in_thirds),),
        learns_positions=True,
        transposed=True,
        causal=True,
        dropout=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    ),
    Architecture(
        names=("opt",),
        maps={x: rf"self_attn\.{x}_proj" for x in "qkv"}
        | {"o": r"self_attn\.out_proj", "up": r"\d+\.fc1", "down": r"\d+\.fc2"},
        decoder="decoder",  # its language model calls the decoder alone, its classifier the model around it
        learns_positions=True,
        causal=True,
        dropout=("dropout", "attention_dropout"),
    ),
    Architecture(
        names=("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"),
        maps={x: rf"self_attn\.{x}_proj" for x in "qkvo"} | {x: rf"mlp\.{x}_proj" for x in ("gate", "up", "down")},
        causal=True,
        dropout=("attention_dropout",),
    ),
    Architecture(
        names=("phi3",),
        maps={"o": r"self_attn\.o_proj", "down": r"mlp\.down_proj"},
        fused=(
            Fused(r"self_attn\.qkv_proj", _QKV, _grouped_queries),
            Fused(r"mlp\.gate_up_proj", ("gate", "up"), _in_halves),
        ),
        causal=True,
        dropout=("resid_pdrop", "embd_pdrop", "attention_dropout"),
    ),
    Architecture(
        names=("gpt_neox",),
        maps={"o": r"attention\.dense"} | _BLOOM,
        fused=(Fused(r"attention\.query_key_value", _QKV, _head_by_head),),
        causal=True,
        dropout=_BLOOM_DROPOUT,
    ),
    Architecture(
        names=("bloom",),
        maps={"o": r"self_attention\.dense"} | _BLOOM,
        fused=(Fused(r"self_attention\.query_key_value", _QKV, _head_by_head),),
        causal=True,
        dropout=_BLOOM_DROPOUT,
    ),
    Architecture(
        names=("falcon",),
        maps={"o": r"self_attention\.dense"} | _BLOOM,
        fused=(Fused(r"self_attention\.query_key_value", _QKV, _falcon),),
        causal=True,
        dropout=_BLOOM_DROPOUT,
    ),
    Architecture(
        names=("t5", "mt5"),
        maps={x: rf"(?:Self|EncDec)Attention\.{x}" for x in "qkvo"}
        | {"up": r"DenseReluDense\.wi(?:_[01])?", "down": r"DenseReluDense\.wo"},
        cross=r"EncDec",
        takes_prefix=False,
        dropout=("dropout_rate",),
    ),
    Architecture(
        names=("bart",),
        maps=_BART,
        cross=r"encoder_attn",
        last_norm=r"\d+\.final_layer_norm",
        learns_positions=True,
        takes_prefix=False,
        dropout=_BART_DROPOUT,
    ),
    Architecture(
        names=("whisper",),
        maps=_BART,
        cross=r"encoder_attn",
        heads=("projector", "classifier", "layer_weights"),
        learns_positions=True,
        takes_prefix=False,
        dropout=_BART_DROPOUT,
    ),
    Architecture(
        names=("clip", "clip_text_model", "clip_vision_model"),
        maps={x: rf"self_attn\.{x}_proj" for x in "qkv"}
        | {"o": r"self_attn\.out_proj", "up": r"mlp\.fc1", "down": r"mlp\.fc2"},
        heads=("classifier",),  # not the projections to the space that text and image share: those were pretrained
        learns_positions=True,
        takes_prefix=False,
        dropout=("attention_dropout",),
    ),
    Architecture(
        names=("vit",),
        maps={
            "q": r"attention\.(?:q_proj|attention\.query)",
            "k": r"attention\.(?:k_proj|attention\.key)",
            "v": r"attention\.(?:v_proj|attention\.value)",
            "o": r"attention\.(?:o_proj|output\.dense)",
            "up": r"mlp\.fc1|intermediate\.dense",
            "down": r"mlp\.fc2|\d+\.output\.dense",
        },
        poolers=("pooler",),
        takes_prefix=False,
        dropout=_BERT_DROPOUT,
    ),
)

ARCHITECTURES: dict[str, Architecture] = {name: row for row in _ROWS for name in row.names}
"""transformers' ``config.model_type`` -> the family's facts."""
UNKNOWN = Architecture()
"""What holds of any other model: it has names and no roles."""


# ---- of a model ----------------------------------------------------------------------------------------------------


def model_type(model: nn.Module) -> str:
    """transformers' name of the architecture, or "" for any other module."""
    return getattr(getattr(model, "config", None), "model_type", "")


def architecture_of(model: nn.Module) -> Architecture:
    """The facts of a model's family, or `UNKNOWN`."""
    return ARCHITECTURES.get(model_type(model), UNKNOWN)


def backbone_of(model: nn.Module) -> nn.Module:
    """The pretrained part of a transformers model; the model itself where nothing says otherwise."""
    base = getattr(model, "base_model", model)
    return base if isinstance(base, nn.Module) else model


def head_parameters(model: nn.Module) -> list[str]:
    """Names of the task head's parameters: all outside the backbone, and the backbone's pooler.

    A language model's output embedding was pretrained and is the backbone's, whether or not it is tied.
    """
    family, backbone = architecture_of(model), backbone_of(model)
    if family.heads:
        return [name for name, _ in model.named_parameters() if name.partition(".")[0] in family.heads]
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    poolers = [getattr(backbone, name, None) for name in family.poolers]
    pooled = {id(p) for pooler in poolers if isinstance(pooler, nn.Module) for p in pooler.parameters()}
    frozen = {id(p) for p in backbone.parameters()} - (pooled if backbone is not model else set())
    frozen |= {id(p) for p in output.parameters()} if isinstance(output, nn.Module) else set()
    return [name for name, p in model.named_parameters() if id(p) not in frozen]
