"""Every fact about a model family, in one table."""

from __future__ import annotations

from torch import nn

LAST_NORM = {
    **dict.fromkeys(("bert", "roberta", "deberta-v2"), r"\d+\.output\.LayerNorm"),
    "distilbert": r"\.output_layer_norm",
}
"""End of the name of the LayerNorm that ends a block, by ``model_type``; other blocks end by adding the residual."""

FIRST_TOKEN_POOLED = ("bert", "roberta", "distilbert", "deberta-v2")
"""Architectures whose heads read the first token: there the prefix follows it, elsewhere it comes first."""
LEARNT_POSITIONS = ("bert", "roberta", "distilbert", "gpt2", "opt")
"""Architectures with an embedding for each position, and none beyond the last."""
WITHOUT = ("t5", "vit")

_BERT = {
    "q": r"attention\.self\.query",
    "k": r"attention\.self\.key",
    "v": r"attention\.self\.value",
    "o": r"attention\.output\.dense",
    "up": r"intermediate\.dense",
    "down": r"\d+\.output\.dense",
}
_LLAMA = {x: rf"self_attn\.{x}_proj" for x in "qkvo"} | {x: rf"mlp\.{x}_proj" for x in ("gate", "up", "down")}

ROLES: dict[str, dict[str, str | tuple[str, int, int]]] = {
    "bert": _BERT,
    "roberta": _BERT,
    "deberta-v2": _BERT | {x[0]: rf"attention\.self\.{x}_proj" for x in ("query", "key", "value")},
    "distilbert": {x: rf"attention\.{x}_lin" for x in "qkv"}
    | {"o": r"attention\.out_lin", "up": r"ffn\.lin1", "down": r"ffn\.lin2"},
    # (pattern, i, n): part i of n equal parts of the output features of one fused map
    "gpt2": {x: (r"attn\.c_attn", i, 3) for i, x in enumerate("qkv")}
    | {"o": r"attn\.c_proj", "up": r"mlp\.c_fc", "down": r"mlp\.c_proj"},
    "opt": {x: rf"self_attn\.{x}_proj" for x in "qkv"}
    | {"o": r"self_attn\.out_proj", "up": r"\d+\.fc1", "down": r"\d+\.fc2"},
    "llama": _LLAMA,
    "t5": {x: rf"(?:Self|EncDec)Attention\.{x}" for x in "qkvo"}
    | {"up": r"DenseReluDense\.wi(?:_[01])?", "down": r"DenseReluDense\.wo"},
    "vit": {
        "q": r"attention\.(?:q_proj|attention\.query)",
        "k": r"attention\.(?:k_proj|attention\.key)",
        "v": r"attention\.(?:v_proj|attention\.value)",
        "o": r"attention\.(?:o_proj|output\.dense)",
        "up": r"mlp\.fc1|intermediate\.dense",
        "down": r"mlp\.fc2|\d+\.output\.dense",
    },
}
"""Regular expressions for the end of a module's name, by transformers' ``config.model_type``."""

POOLERS = {"bert": ("pooler",), "roberta": ("pooler",), "vit": ("pooler",)}
"""Parts of the backbone that belong to the task head: trained with it, never adapted."""


def model_type(model: nn.Module) -> str:
    """transformers' name of the architecture, or "" for any other module."""
    return getattr(getattr(model, "config", None), "model_type", "")


def backbone_of(model: nn.Module) -> nn.Module:
    """The pretrained part of a transformers model; the model itself where nothing says otherwise."""
    base = getattr(model, "base_model", model)
    return base if isinstance(base, nn.Module) else model


def head_parameters(model: nn.Module) -> list[str]:
    """Names of the task head's parameters: all outside the backbone, and the backbone's pooler.

    A language model's output embedding was pretrained and is the backbone's, whether or not it is tied.
    """
    backbone = backbone_of(model)
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    poolers = [getattr(backbone, name, None) for name in POOLERS.get(model_type(model), ())]
    pooled = {id(p) for pooler in poolers if isinstance(pooler, nn.Module) for p in pooler.parameters()}
    frozen = {id(p) for p in backbone.parameters()} - (pooled if backbone is not model else set())
    frozen |= {id(p) for p in output.parameters()} if isinstance(output, nn.Module) else set()
    return [name for name, p in model.named_parameters() if id(p) not in frozen]
