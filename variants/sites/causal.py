"""Rows of the table in `architectures`: families of language models that read from left to right."""

from __future__ import annotations

from variants.sites.family import (
    Architecture,
    Fused,
    bigcode,
    falcon,
    grouped_queries,
    head_by_head,
    in_halves,
    in_thirds,
    latent,
    queries_values_keys,
)

_QKV = ("q", "k", "v")
_GPT2_DROPOUT = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
_BLOOM = {"up": r"mlp\.dense_h_to_4h", "down": r"mlp\.dense_4h_to_h"}
_BLOOM_DROPOUT = ("hidden_dropout", "attention_dropout")
_SELF = {x: rf"self_attn\.{x}_proj" for x in "qkvo"}
_GATED = {x: rf"(?:mlp|feed_forward)\.(?:shared_(?:experts?|mlp)\.)?{x}_proj" for x in ("gate", "up", "down")}
_CODEGEN = {"o": r"attn\.out_proj", "up": r"mlp\.fc_in", "down": r"mlp\.fc_out"}

CAUSAL = (
    Architecture(
        names=("gpt2",),
        maps={"o": r"attn\.c_proj", "up": r"mlp\.c_fc", "down": r"mlp\.c_proj"},
        fused=(Fused(r"attn\.c_attn", _QKV, in_thirds),),
        learns_positions=True,
        transposed=True,
        causal=True,
        packs=True,
        dropout=_GPT2_DROPOUT,
    ),
    Architecture(
        names=("opt",),
        maps={x: rf"self_attn\.{x}_proj" for x in "qkv"}
        | {"o": r"self_attn\.out_proj", "up": r"\d+\.fc1", "down": r"\d+\.fc2"},
        decoder="decoder",  # its language model calls the decoder alone, its classifier the model around it
        learns_positions=True,
        causal=True,
        packs=True,
        dropout=("dropout", "attention_dropout"),
    ),
    Architecture(
        names=("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
        + ("smollm3", "olmo2", "granite", "cohere", "stablelm"),
        maps=_SELF | _GATED,
        causal=True,
        packs=True,
        dropout=("attention_dropout",),
    ),
    Architecture(
        names=("phi3",),
        maps={"o": r"self_attn\.o_proj", "down": r"mlp\.down_proj"},
        fused=(
            Fused(r"self_attn\.qkv_proj", _QKV, grouped_queries),
            Fused(r"mlp\.gate_up_proj", ("gate", "up"), in_halves),
        ),
        causal=True,
        packs=True,
        dropout=("resid_pdrop", "embd_pdrop", "attention_dropout"),
    ),
    Architecture(
        names=("gpt_neox",),
        maps={"o": r"attention\.dense"} | _BLOOM,
        fused=(Fused(r"attention\.query_key_value", _QKV, head_by_head),),
        causal=True,
        packs=True,
        dropout=_BLOOM_DROPOUT,
    ),
    Architecture(
        names=("bloom",),
        maps={"o": r"self_attention\.dense"} | _BLOOM,
        fused=(Fused(r"self_attention\.query_key_value", _QKV, head_by_head),),
        causal=True,
        dropout=_BLOOM_DROPOUT,
    ),
    Architecture(
        names=("falcon",),
        maps={"o": r"self_attention\.dense"} | _BLOOM,
        fused=(Fused(r"self_attention\.query_key_value", _QKV, falcon),),
        causal=True,
        dropout=_BLOOM_DROPOUT,
    ),
    Architecture(
        names=("glm",),
        maps=_SELF | {"down": r"mlp\.down_proj"},
        fused=(Fused(r"mlp\.gate_up_proj", ("gate", "up"), in_halves),),
        causal=True,
        packs=True,
        dropout=("attention_dropout",),
    ),
    Architecture(
        names=("starcoder2",),
        maps=_SELF | {"up": r"mlp\.c_fc", "down": r"mlp\.c_proj"},
        causal=True,
        packs=True,
        dropout=("residual_dropout", "embedding_dropout", "attention_dropout"),
    ),
    Architecture(
        names=("phi",),
        maps={x: rf"self_attn\.{x}_proj" for x in "qkv"}
        | {"o": r"self_attn\.(?:dense|o_proj)", "up": r"mlp\.fc1", "down": r"mlp\.fc2"},
        causal=True,
        packs=True,
        dropout=("resid_pdrop", "embd_pdrop", "attention_dropout"),
    ),
    Architecture(
        # latent attention: queries and key-values come from a small vector each, whose own maps have no role
        names=("deepseek_v3",),
        maps={"q": r"self_attn\.q(?:_b)?_proj", "o": r"self_attn\.o_proj"} | _GATED,
        fused=(Fused(r"self_attn\.kv_b_proj", ("k", "v"), latent),),
        takes_prefix=False,
        causal=True,
        packs=True,
        dropout=("attention_dropout",),
    ),
    Architecture(
        names=("gptj",),
        maps={x: rf"attn\.{x}_proj" for x in "qkv"}
        | {"o": r"attn\.out_proj", "up": r"mlp\.fc_in", "down": r"mlp\.fc_out"},
        causal=True,
        packs=True,
        dropout=_GPT2_DROPOUT,
    ),
    Architecture(
        names=("codegen",),
        maps=_CODEGEN,
        fused=(Fused(r"attn\.qkv_proj", ("q", "v", "k"), queries_values_keys),),
        causal=True,
        packs=True,
        dropout=_GPT2_DROPOUT,
    ),
    Architecture(
        names=("gpt_neo",),
        maps={x: rf"attn\.attention\.{x}_proj" for x in "qkv"}
        | {"o": r"attn\.attention\.out_proj", "up": r"mlp\.c_fc", "down": r"mlp\.c_proj"},
        learns_positions=True,
        causal=True,
        dropout=("resid_dropout", "embed_dropout", "attention_dropout"),
    ),
    Architecture(
        names=("gpt_bigcode",),  # GPT-2's names, of maps that are not transposed
        maps={"o": r"attn\.c_proj", "up": r"mlp\.c_fc", "down": r"mlp\.c_proj"},
        fused=(Fused(r"attn\.c_attn", _QKV, bigcode),),
        learns_positions=True,
        causal=True,
        packs=True,
        dropout=_GPT2_DROPOUT,
    ),
    Architecture(
        names=("mpt",),
        maps={"o": r"attn\.out_proj", "up": r"ffn\.up_proj", "down": r"ffn\.down_proj"},
        fused=(Fused(r"attn\.Wqkv", _QKV, in_thirds),),
        causal=True,
        dropout=("resid_pdrop", "emb_pdrop"),
    ),
    Architecture(
        names=("persimmon",),
        maps={"o": r"self_attn\.dense"} | _BLOOM,
        fused=(Fused(r"self_attn\.query_key_value", _QKV, head_by_head),),
        causal=True,
        packs=True,
        dropout=_BLOOM_DROPOUT,
    ),
)
"""Language models, one row for each family."""
