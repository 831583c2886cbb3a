"""Tiny diffusion models made from configurations, with weights that depend on a seed alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CONFIGS: dict[str, dict[str, Any]] = {
    "UNet2DConditionModel": {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    },
    "DiTTransformer2DModel": {
        "num_attention_heads": 2,
        "attention_head_dim": 4,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 2,
        "sample_size": 8,
        "patch_size": 2,
        "num_embeds_ada_norm": 8,
        "norm_num_groups": 4,
    },
    "SD3Transformer2DModel": {
        "sample_size": 8,
        "patch_size": 1,
        "in_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "caption_projection_dim": 16,
        "pooled_projection_dim": 64,
        "out_channels": 4,
        "pos_embed_max_size": 32,
    },
    "FluxTransformer2DModel": {
        "patch_size": 1,
        "in_channels": 4,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "axes_dims_rope": (4, 4, 8),
    },
    "PixArtTransformer2DModel": {
        "num_attention_heads": 2,
        "attention_head_dim": 4,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 1,
        "cross_attention_dim": 8,
        "sample_size": 8,
        "patch_size": 2,
        "caption_channels": 8,
        "use_additional_conditions": False,
    },
}


def diffusion_model(name: str, seed: int = 0, **changes: Any) -> nn.Module:
    """A tiny model of a class of diffusers, in evaluation mode."""
    import diffusers

    torch.manual_seed(seed)
    return getattr(diffusers, name)(**CONFIGS[name] | changes).eval()


def text_encoder(name: str = "CLIPTextModel", seed: int = 0, projection_dim: int = 32) -> nn.Module:
    """A tiny text encoder of CLIP's, in evaluation mode."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.CLIPTextConfig(
        bos_token_id=0,
        eos_token_id=2,
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        pad_token_id=1,
        vocab_size=1000,
        hidden_act="gelu",
        projection_dim=projection_dim,
    )
    return getattr(transformers, name)(config).eval()
