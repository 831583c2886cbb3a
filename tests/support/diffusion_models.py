"""Tiny diffusion models made from configurations, with weights that depend on a seed alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from variants import attach
from variants.adapters.adapted_model import AdaptedModel
from variants.contract.models import shift
from variants.variant import BaseVariant

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


def pipeline(kind: str, denoiser: nn.Module, encoder: nn.Module | None = None) -> Any:
    """A pipeline of diffusers (sd, sd3, flux) around a denoiser, without tokenizers."""
    import diffusers

    torch.manual_seed(7)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4,),
        norm_num_groups=2,
        latent_channels=4 if kind != "flux" else 1,
        shift_factor=0.0,
        scaling_factor=1.0,
        sample_size=8,
    ).eval()
    nothing = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "feature_extractor"))
    if kind == "sd":
        del nothing["text_encoder_2"], nothing["tokenizer_2"]
        nothing |= {
            "text_encoder": encoder,
            "safety_checker": None,
            "scheduler": diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        }
        made = diffusers.StableDiffusionPipeline(**nothing, vae=vae, unet=denoiser, requires_safety_checker=False)
    else:
        flow = diffusers.FlowMatchEulerDiscreteScheduler()
        more = {"text_encoder_3": None, "tokenizer_3": None} if kind == "sd3" else {}
        cls = diffusers.StableDiffusion3Pipeline if kind == "sd3" else diffusers.FluxPipeline
        del nothing["feature_extractor"]
        made = cls(**nothing, **more, vae=vae, transformer=denoiser, scheduler=flow)
    made.set_progress_bar_config(disable=True)
    return made


def image(pipe: Any) -> torch.Tensor:
    """The picture of a fixed prompt and fixed noise after two steps."""
    kind = type(pipe).__name__
    rng = torch.Generator().manual_seed(5)
    text = torch.randn(1, 7, 32, generator=rng)
    if getattr(pipe, "text_encoder", None) is not None:
        text = pipe.text_encoder(torch.arange(3, 10)[None])[0]
    size = pipe.vae.config.sample_size if kind != "FluxPipeline" else 8
    options: dict[str, Any] = {"prompt_embeds": text, "height": size, "width": size, "output_type": "pt"}
    if kind != "StableDiffusionPipeline":
        config = pipe.transformer.config
        options["pooled_prompt_embeds"] = torch.randn(1, config.pooled_projection_dim, generator=rng)
    with torch.no_grad():
        return pipe(**options, num_inference_steps=2, guidance_scale=1.0, generator=rng).images


def same_file(one: Path, other: Path) -> bool:
    """Whether two safetensors files hold the same, bit for bit, whatever the order of their headers."""
    found = [load_file(file) for file in (one, other)]
    headers = []
    for file in (one, other):
        with safe_open(file, "pt") as opened:
            headers.append(opened.metadata())
    bits = all(key in found[1] and torch.equal(tensor, found[1][key]) for key, tensor in found[0].items())
    return headers[0] == headers[1] and len(found[0]) == len(found[1]) and bits


def trained(model: nn.Module, variant: BaseVariant) -> AdaptedModel:
    """The variant on a model, as if it had been trained."""
    adapted = attach(model, variant)
    for index, tensor in enumerate(adapted.trained().values()):
        shift(tensor, index, 0.2)
    return adapted
