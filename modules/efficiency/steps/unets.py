"""UNets of published sizes with random weights: their loss, their batches, what PEFT adapts in diffusers' scripts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

KIND = "UNet2DConditionModel"
SHAPES: dict[str, dict[str, Any]] = {
    "sd15-unet": {"model_type": KIND, "sample_size": 64, "cross_attention_dim": 768},
    "small-unet": {
        "model_type": KIND,
        "sample_size": 16,
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    },
}
"""diffusers' configuration of each. sd15-unet is that of Stable Diffusion 1.5 (unet/config.json of
stable-diffusion-v1-5/stable-diffusion-v1-5; whatever it does not say here is the class's default): 860M parameters."""
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
"""What diffusers' train_text_to_image_lora.py adapts, in self- and cross-attention; `attn` of ours."""
WORDS = 77
"""Text tokens of a picture: CLIP's."""
STEPS = 1000
"""Of the noise."""

Batch = dict[str, Tensor]


def is_unet(config: dict[str, Any]) -> bool:
    """Whether a backbone of `backbones.SHAPES` is one of these."""
    return config["model_type"] == KIND


def build(config: dict[str, Any], device: torch.device, seed: int, dtype: torch.dtype) -> nn.Module:
    """A UNet with random weights, frozen, in training mode."""
    import diffusers

    diffusers.utils.logging.set_verbosity_error()  # that casting may cost some families digits
    options = {name: value for name, value in config.items() if name != "model_type"}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        model = diffusers.UNet2DConditionModel(**options).to(dtype)
    return model.requires_grad_(False).train()


def batches(config: dict[str, Any], rows: int, device: torch.device, count: int = 1) -> list[Batch]:
    """Noisy latents (B, 4, h, h), their times (B,), text (B, 77, d), and the noise, which is the target."""
    rng, side = torch.Generator().manual_seed(0), config["sample_size"]
    found = []
    for _ in range(count):
        batch = {
            "latents": torch.randn(rows, 4, side, side, generator=rng),
            "times": torch.randint(STEPS, (rows,), generator=rng),
            "words": torch.randn(rows, WORDS, config["cross_attention_dim"], generator=rng),
            "noise": torch.randn(rows, 4, side, side, generator=rng),
        }
        found.append({name: part.to(device) for name, part in batch.items()})
    return found


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error of the noise, in fp32; latents and text come in the dtype of the weights."""
    dtype = model.conv_in.weight.dtype
    found = model(batch["latents"].to(dtype), batch["times"], batch["words"].to(dtype), return_dict=False)[0]
    return (found.float() - batch["noise"]).square().mean()


def with_gradients(batch: Batch) -> Batch:
    """Latents that require a gradient, so that the backward pass of a frozen model reaches its first block."""
    return batch | {"latents": batch["latents"].detach().requires_grad_()}
