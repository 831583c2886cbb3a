"""Tiny random models of the architectures that the package knows, two blocks each.

Biases and LayerNorm weights are random too: with the zeros and ones that models start with, errors hide.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

LABELS = 3
_VOCABULARY = 50
_BERT: dict[str, Any] = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
_DECODER: dict[str, Any] = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
}
_GROUPED = {"num_key_value_heads": 2}
_NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
_LATENT = {"num_key_value_heads": 4, "q_lora_rank": 12, "kv_lora_rank": 12, "qk_nope_head_dim": 8}
_LATENT |= {"qk_rope_head_dim": 8, "v_head_dim": 6, "first_k_dense_replace": 2}  # no experts
_SEQ2SEQ: dict[str, Any] = {
    "d_model": 16,
    **{f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")},
    **{f"{side}_ffn_dim": 24 for side in ("encoder", "decoder")},
    "dropout": 0.0,
    "decoder_start_token_id": 0,
}
_VISION = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
_VISION |= {"image_size": 8, "patch_size": 4, "projection_dim": 16}
# transformers module -> (prefix of its classes, task of the model class, configuration)
_SPECS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "roberta": ("Roberta", "SequenceClassification", _BERT),
    "bert": ("Bert", "SequenceClassification", _BERT),
    "distilbert": (
        "DistilBert",
        "SequenceClassification",
        {"vocab_size": _VOCABULARY, "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2}
        | {"max_position_embeddings": 40, "dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0},
    ),
    "deberta_v2": (
        "DebertaV2",
        "SequenceClassification",
        _BERT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 16},
    ),
    "gpt2": (
        "GPT2",
        "SequenceClassification",
        {"vocab_size": _VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40}
        | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ),
    "opt": (
        "OPT",
        "SequenceClassification",
        {"vocab_size": _VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"ffn_dim": 24, "word_embed_proj_dim": 16, "max_position_embeddings": 40, "dropout": 0.0},
    ),
    "llama": (
        "Llama",
        "SequenceClassification",
        {"vocab_size": _VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"num_key_value_heads": 1, "intermediate_size": 24, "attention_bias": True, "mlp_bias": True},
    ),
    "t5": (
        "T5",
        "SequenceClassification",
        {"vocab_size": _VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
        | {"dropout_rate": 0.0, "decoder_start_token_id": 0},
    ),
    "vit": (
        "ViT",
        "ImageClassification",
        {k: v for k, v in _BERT.items() if k not in ("vocab_size", "max_position_embeddings")}
        | {"image_size": 8, "patch_size": 4},
    ),
    "xlm_roberta": ("XLMRoberta", "SequenceClassification", _BERT),
    "camembert": ("Camembert", "SequenceClassification", _BERT),
    "electra": ("Electra", "SequenceClassification", _BERT | {"embedding_size": 12}),
    "albert": ("Albert", "SequenceClassification", _BERT | {"embedding_size": 12}),
    "deberta": (
        "Deberta",
        "SequenceClassification",
        _BERT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 16},
    ),
    "modernbert": (
        "ModernBert",
        "SequenceClassification",
        _DECODER | {"intermediate_size": 24, "global_attn_every_n_layers": 2, "cls_token_id": 0, "sep_token_id": 2},
    ),
    **{
        module: (prefix, "SequenceClassification", _DECODER | _GROUPED | {"intermediate_size": 24})
        for module, prefix in (
            ("mistral", "Mistral"),
            ("qwen2", "Qwen2"),
            ("smollm3", "SmolLM3"),
            ("olmo2", "Olmo2"),
            ("stablelm", "StableLm"),
        )
    },
    **{
        module: (prefix, "SequenceClassification", _DECODER | _GROUPED | {"intermediate_size": 24, "head_dim": 8})
        for module, prefix in (
            ("qwen3", "Qwen3"),
            ("gemma", "Gemma"),
            ("gemma2", "Gemma2"),
            ("gemma3_text", "Gemma3Text"),
        )
    },
    "phi3": ("Phi3", "SequenceClassification", _DECODER | _GROUPED | {"intermediate_size": 24}),
    "gpt_neox": ("GPTNeoX", "SequenceClassification", _DECODER | {"intermediate_size": 24}),
    "bloom": (
        "Bloom",
        "SequenceClassification",
        {"vocab_size": _VOCABULARY, "hidden_size": 16, "n_layer": 2, "n_head": 2}
        | {"hidden_dropout": 0.0, "attention_dropout": 0.0},
    ),
    "falcon": ("Falcon", "SequenceClassification", _DECODER | {"bias": True}),
    **{
        module: (prefix, "SequenceClassification", _DECODER | _GROUPED | {"intermediate_size": 24} | more)
        for module, prefix, more in (
            ("glm", "Glm", {"head_dim": 8}),
            ("starcoder2", "Starcoder2", {"residual_dropout": 0.0, "embedding_dropout": 0.0}),
            ("phi", "Phi", {"resid_pdrop": 0.0, "embd_pdrop": 0.0}),
            ("persimmon", "Persimmon", {}),
            ("deepseek_v3", "DeepseekV3", _LATENT),
        )
    },
    **{
        module: (prefix, "SequenceClassification", {"vocab_size": _VOCABULARY, "n_embd": 16, "n_layer": 2} | more)
        for module, prefix, more in (
            ("gptj", "GPTJ", {"n_head": 2, "rotary_dim": 4} | _NO_DROPOUT),
            ("gpt_bigcode", "GPTBigCode", {"n_head": 2, "n_positions": 40} | _NO_DROPOUT),
            ("mpt", "Mpt", {"d_model": 16, "n_heads": 2, "max_seq_len": 40, "n_layers": 2, "expansion_ratio": 2}),
        )
    },
    "gpt_neo": (
        "GPTNeo",
        "SequenceClassification",
        {"vocab_size": _VOCABULARY, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "max_position_embeddings": 40}
        | {"attention_types": [[["global", "local"], 1]], "intermediate_size": 24}
        | {"resid_dropout": 0.0, "embed_dropout": 0.0, "attention_dropout": 0.0},
    ),
    "mt5": (
        "MT5",
        "SequenceClassification",
        {"vocab_size": _VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
        | {"dropout_rate": 0.0, "decoder_start_token_id": 0},
    ),
    "bart": (
        "Bart",
        "SequenceClassification",
        _SEQ2SEQ | {"vocab_size": _VOCABULARY, "max_position_embeddings": 40, "forced_eos_token_id": None},
    ),
    "whisper": (
        "Whisper",
        "AudioClassification",
        _SEQ2SEQ | {"vocab_size": _VOCABULARY, "num_mel_bins": 4, "max_source_positions": 6, "classifier_proj_size": 8},
    ),
    "clip": (
        "CLIP",
        "ImageClassification",
        {"vision_config": _VISION, "text_config": {"vocab_size": _VOCABULARY, "hidden_size": 16}},
    ),
}
_FILES = {"gemma3_text": "gemma3"}  # where transformers' folder has another name
_SPECIAL = {"num_labels": LABELS, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}


def _make(name: str) -> Callable[[], nn.Module]:
    def make(seed: int = 0, **changes: Any) -> nn.Module:
        """A model in eval mode, the same at every call.

        Args:
            changes: of the configuration.
        """
        prefix, task, options = _SPECS[name]
        file = _FILES.get(name, name)
        config = getattr(import_module(f"transformers.models.{file}.configuration_{file}"), f"{prefix}Config")
        model = getattr(import_module(f"transformers.models.{file}.modeling_{file}"), f"{prefix}For{task}")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            made = model(config(**(_SPECIAL | options | changes)))
        return _randomise(made, seed).eval()

    return make


@torch.no_grad()
def _randomise(model: nn.Module, seed: int) -> nn.Module:
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        is_norm = parameter.ndim == 1 and name.endswith("weight")
        noise = torch.randn(parameter.shape, generator=rng)
        parameter.copy_(1 + 0.2 * noise if is_norm else (0.3 if parameter.ndim == 1 else 0.2) * noise)
    return model


_DASHED = ("deberta_v2", "xlm_roberta")
MODELS: dict[str, Callable[..., nn.Module]] = {
    name.replace("_", "-") if name in _DASHED else name: _make(name) for name in _SPECS
}
"""transformers' ``model_type`` -> a function that makes such a classifier."""
BASIC = ("roberta", "bert", "distilbert", "deberta-v2", "gpt2", "opt", "llama", "t5", "vit")
"""Names of `MODELS` on which everything is tried; the others are of families whose maps alone are new."""


def inputs(name: str, batch: int = 3, length: int = 7) -> dict[str, Tensor]:
    """What ``MODELS[name]()`` is called with: padded token ids, pixels, or sound; the same at every call."""
    rng = torch.Generator().manual_seed(1)
    if name in ("vit", "clip"):
        return {"pixel_values": torch.randn(batch, 3, 8, 8, generator=rng)}
    if name == "whisper":
        return {"input_features": torch.randn(batch, 4, 12, generator=rng)}
    ids = torch.randint(4, _VOCABULARY, (batch, length), generator=rng)
    lengths = torch.tensor([max(3, length - i) for i in range(batch)])
    mask = (torch.arange(length) < lengths[:, None]).long()
    ids[torch.arange(batch), lengths - 1] = 2  # T5's head reads the last end-of-sequence token
    return {"input_ids": ids.where(mask.bool(), torch.ones(())).long(), "attention_mask": mask}
