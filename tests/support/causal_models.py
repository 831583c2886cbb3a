"""Every language model of transformers that can be built small: each model type's own configuration, shrunk."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY = 50
_NAMES = {  # size -> what configurations call it
    VOCABULARY: "vocab_size vocab_size_per_layer_input",
    32: "hidden_size d_model n_embd word_embed_proj_dim embedding_size mamba_d_state",
    24: "intermediate_size ffn_dim n_inner decoder_ffn_dim encoder_ffn_dim ffn_hidden_size",
    2: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_key_value_heads num_kv_heads "
    "zero_expert_num num_experts_per_tok num_experts_per_token moe_topk moe_top_k eos_token_id",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads rotary_dim "
    "num_experts num_local_experts n_routed_experts moe_num_experts",
    8: "head_dim mamba_n_heads mamba_d_head mamba_headdim moe_intermediate_size expert_ffn_hidden_size"
    "  qk_nope_head_dim qk_rope_head_dim v_head_dim",
    12: "shared_expert_intermediate_size q_lora_rank kv_lora_rank",
    64: "max_position_embeddings n_positions",
    1: "n_group topk_group first_k_dense_replace bos_token_id",
    0: "pad_token_id",
}
SIZES = {name: size for size, names in _NAMES.items() for name in names.split()}
_MAY_BE_NONE = ("num_key_value_heads", "head_dim", "pad_token_id", "bos_token_id", "eos_token_id")
_MAY_BE_NONE = (*_MAY_BE_NONE, "num_experts_per_tok", "n_group", "topk_group")
_BY_LAYER = ("layer_types", "mlp_layer_types", "layers_block_type", "attention_layers", "no_rope_layers")
_OWN: dict[str, dict[str, Any]] = {  # what the sizes of one model type must be besides
    "ctrl": {"dff": 24},
    "falcon": {"ffn_hidden_size": 24},
    "xglm": {"attention_heads": 4},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": 32},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"], "num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "num_local_experts": 4, "n_shared_experts": 1},
    "gemma3n_text": {"num_kv_shared_layers": 0, "intermediate_size": [24, 24]},
    "gemma4_text": {"num_kv_shared_layers": 0},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "falcon_h1": {"mamba_n_heads": 128, "mamba_d_head": 64},
    "longcat_flash": {"qk_head_dim": 16},
    "qwen4_exp_text": {"n_group": 1, "topk_group": 1},
    "mamba2": {"expand": 2, "num_heads": 8},
}


def model_types() -> list[str]:
    """Every ``config.model_type`` of which transformers has a language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def config_of(model_type: str, **changes: Any) -> Any:
    """A model type's configuration with two layers of a few features, and so the configurations inside."""
    import transformers

    config = transformers.CONFIG_MAPPING[model_type]()
    parts = [config, *(part for part in vars(config).values() if isinstance(part, transformers.PretrainedConfig))]
    for part in parts:
        _shrink(part, _OWN.get(model_type, {}) | changes)
    return config


def _shrink(config: Any, own: dict[str, Any]) -> None:
    sizes = SIZES | own
    if hasattr(config, "kv_lora_rank"):  # latent attention: a key for each query
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    depth = sizes["num_hidden_layers"]
    for name in _BY_LAYER:
        with contextlib.suppress(Exception):
            kinds = list(getattr(config, name))
            first = {kind: None for kind in kinds}  # one of each kind
            chosen = (list(first) + kinds)[: max(depth, len(first))]
            sizes = {name: chosen} | sizes | {"num_hidden_layers": max(len(chosen), sizes["num_hidden_layers"])}
    for name, size in sizes.items():
        if name in own or hasattr_set(config, name):
            with contextlib.suppress(Exception):
                setattr(config, name, size)


def hasattr_set(config: Any, name: str) -> bool:
    """Whether the configuration has such a size."""
    with contextlib.suppress(Exception):
        return getattr(config, name) is not None or name in _MAY_BE_NONE
    return False


def tiny(model_type: str, seed: int = 0, **changes: Any) -> nn.Module:
    """A small language model in evaluation mode, all of its parameters random; the same at every call."""
    import transformers

    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        config = config_of(model_type, **changes)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=rng)
            parameter.add_(0.1 * noise if parameter.ndim > 1 else 0.05 * noise)
    return model.eval()


def tokens(batch: int = 2, length: int = 7) -> Tensor:
    """Token ids (batch, length), the same at every call."""
    return torch.randint(4, VOCABULARY - 1, (batch, length), generator=torch.Generator().manual_seed(1))


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    """Scores of the next token, (batch, length, vocabulary), in fp32."""
    return model(input_ids=ids, use_cache=False).logits.float()
