"""Every fact about a model family, in one table: a new family is a new row of `_ROWS`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from variants.sites.aliases import ALIASES, LOOK_ELSEWHERE
from variants.sites.causal import CAUSAL
from variants.sites.diffusion import DIFFUSION
from variants.sites.family import (
    Architecture,
    Fused,
    head_by_head,
    in_thirds,
)

_QKV = ("q", "k", "v")

# ---- what several rows have ----------------------------------------------------------------------------------------

_BERT_OUTPUTS = {"o": r"attention\.output\.dense", "up": r"intermediate\.dense", "down": r"\d+\.output\.dense"}
_BERT = {x[0]: rf"attention\.self\.{x}" for x in ("query", "key", "value")} | _BERT_OUTPUTS
_BERT_NORM = r"\d+\.output\.LayerNorm"
_BERT_DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob")
_BART = {x: rf"(?:self_attn|encoder_attn)\.{x}_proj" for x in "qkv"}
_BART |= {"o": r"(?:self_attn|encoder_attn)\.out_proj", "up": r"\d+\.fc1", "down": r"\d+\.fc2"}
_BART_DROPOUT = ("dropout", "attention_dropout", "activation_dropout")

_ROWS = (
    Architecture(
        names=("bert",),
        maps=_BERT,
        last_norm=_BERT_NORM,
        pretrained=("pooler",),
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
        pretrained=("pooler",),
        pools_first_token=True,
        learns_positions=True,
        dropout=_BERT_DROPOUT,
    ),
    Architecture(
        names=("deberta",),
        maps=_BERT_OUTPUTS,
        fused=(Fused(r"attention\.self\.in_proj", _QKV, head_by_head),),
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
        fused=(Fused(r"attn\.Wqkv", _QKV, in_thirds),),
        pretrained=("head",),
        pools_first_token=True,
        dropout=("embedding_dropout", "attention_dropout", "mlp_dropout"),
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
    *CAUSAL,
    *DIFFUSION,
)

ARCHITECTURES: dict[str, Architecture] = {name: row for row in _ROWS for name in row.names}
"""transformers' ``config.model_type``, or diffusers' name of the class -> the family's facts."""
UNKNOWN = Architecture()
"""What holds of any other model: it has names and no roles."""


# ---- of a model ----------------------------------------------------------------------------------------------------


def model_type(model: nn.Module) -> str:
    """transformers' name of the architecture, diffusers' name of the class, or "" for any other module."""
    if name := getattr(getattr(model, "config", None), "model_type", ""):
        return name
    return next((cls.__name__ for cls in type(model).__mro__ if cls.__module__.startswith("diffusers.models.")), "")


def architecture_of(model: nn.Module) -> Architecture:
    """The facts of a model's family: :func:`family_of` its type."""
    return family_of(model_type(model))


def family_of(name: str) -> Architecture:
    """The facts of a model type's family, as far as its name is known; else `UNKNOWN`."""
    if name in ALIASES:
        return ARCHITECTURES[ALIASES[name]].alias(packs=name not in LOOK_ELSEWHERE)
    return ARCHITECTURES.get(name, UNKNOWN)


def backbone_of(model: nn.Module) -> nn.Module:
    """The pretrained part of a transformers model; the model itself where nothing says otherwise."""
    base = getattr(model, "base_model", model)
    return base if isinstance(base, nn.Module) else model


def remember_lacked(model: nn.Module, names: Iterable[str]) -> None:
    """Note which of a model's parameters its checkpoint lacked (transformers' ``missing_keys``)."""
    model.checkpoint_lacked = frozenset(names)


def head_parameters(model: nn.Module) -> list[str]:
    """Names of the task head's parameters, which train: all that pretraining left out.

    That is what stands beside the backbone, and in it a pooler that the checkpoint lacked (`remember_lacked`) or, where
    nothing was noted, that the family's checkpoints lack. A language model was pretrained as a whole, but for new
    tokens (`variants.new_tokens`).
    """
    parameters = dict(model.named_parameters())
    modules = [m for m in model.modules() if getattr(m, "belongs_to_head", False)]
    new = {id(p) for module in modules for p in module.parameters()}
    known = set(_head_parameters(model, parameters))
    return [name for name, p in parameters.items() if name in known or id(p) in new]


def _head_parameters(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> list[str]:
    family, backbone = architecture_of(model), backbone_of(model)
    if family.heads:
        return [name for name in parameters if name.partition(".")[0] in family.heads]
    if output_embedding(model) is not None:
        return []
    lacked = getattr(model, "checkpoint_lacked", None)
    fresh = _parameters_of(backbone, family.poolers) if lacked is None and backbone is not model else set()
    fresh |= {id(p) for name, p in parameters.items() if lacked and name in lacked}
    trained = {id(p) for p in backbone.parameters()}
    trained |= _parameters_of(model, family.pretrained)
    return [name for name, p in parameters.items() if id(p) in fresh or id(p) not in trained]


def output_embedding(model: nn.Module) -> nn.Module | None:
    """What turns hidden states into logits of tokens, if the model says that it has it."""
    try:
        return model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None


def _parameters_of(module: nn.Module, children: Iterable[str]) -> set[int]:
    """Of those children that there are."""
    found = (getattr(module, name, None) for name in children)
    return {id(p) for child in found if isinstance(child, nn.Module) for p in child.parameters()}
