"""Families that are pipelines of diffusers: Stable Diffusion, SD3, Flux. Their parts are used as they are."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from modules.backbones.diffusion import folder as layout
from modules.backbones.diffusion.image_model import AT_ONCE, Conditions, ImageModel, as_bytes, generator, own_dtype
from variants.errors import UserError


class PipelineModel(ImageModel):
    """A pipeline of diffusers, with a VAE and text encoders; the denoiser and they are its own parts."""

    encoded: ClassVar[tuple[str, ...]]  # what `encode_prompt` gives, in its order; None for what is not kept

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        known = layout.parts(folder)
        pipeline = getattr(layout.library(), known["_class_name"])
        expected = inspect.signature(pipeline.__init__).parameters
        without = {name: None for name in expected if not known.get(name, "left out") or name == "safety_checker"}
        if "requires_safety_checker" in expected:
            without["requires_safety_checker"] = False
        self.pipe = pipeline.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, **without
        )
        self.pipe.set_progress_bar_config(disable=True)
        self.denoiser = getattr(self.pipe, layout.denoiser_of(folder)[0])
        self.scheduler = self.pipe.scheduler
        for part in self.pipe.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False)
        self.size = int(self._sample_size() * self.pipe.vae_scale_factor)

    def _sample_size(self) -> int:
        return self.denoiser.config.sample_size

    def resize(self, size: int) -> None:
        """See `ImageModel`."""
        unit = 2 * self.pipe.vae_scale_factor
        if size % unit:
            raise UserError(f"--resolution {size}: must be a multiple of {unit}")
        self.size = size

    @torch.no_grad()
    def conditions(self, prompts: Sequence[str]) -> Conditions:
        """See `ImageModel`: of one prompt after the other, since equal ones are asked once."""
        every: dict[str, Conditions] = {}
        device = self._reader().device
        for prompt in dict.fromkeys(prompts):
            asks = self._asks() | self._limit(self.pipe.encode_prompt)
            values = self.pipe.encode_prompt(prompt, device=device, **asks)
            pairs = zip(self.encoded, values, strict=False)
            every[prompt] = {name: value.cpu() for name, value in pairs if name and value is not None}
        return {name: torch.cat([every[prompt][name] for prompt in prompts]) for name in every[prompts[0]]}

    def _limit(self, function: Any) -> dict[str, int]:
        """The limit of a prompt's tokens, where a function of the pipeline takes it."""
        takes = "max_sequence_length" in inspect.signature(function).parameters
        return {"max_sequence_length": self.max_tokens} if takes else {}

    def _reader(self) -> nn.Module:
        return self.pipe.text_encoder

    def _asks(self) -> dict[str, Any]:
        """Further arguments of ``encode_prompt``."""
        return {}

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """See `ImageModel`: the mean of the VAE's posterior, shifted and scaled."""
        vae, parts = self.pipe.vae, []
        for some in pixels.split(AT_ONCE):
            parts.append(vae.encode(some.to(vae.device, vae.dtype)).latent_dist.mode().float().cpu())
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        return (torch.cat(parts) - shift) * vae.config.scaling_factor

    def predict(self, denoiser: nn.Module, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """See `ImageModel`."""
        own = own_dtype(denoiser)
        told = {name: value.to(own) for name, value in conditions.items()}
        return self._call(denoiser, latents.to(own), times, told)

    def _call(self, denoiser: nn.Module, latents: Tensor, times: Tensor, told: Conditions) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def paint(
        self, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float, copies: int = 1
    ) -> Tensor:
        """See `ImageModel`: as the pipeline itself paints."""
        if copies > 1:
            raise UserError("a pipeline of diffusers cannot paint with stacked adapters: leave --stack_seeds out")
        device = next(self.denoiser.parameters()).device
        for part in self.pipe.components.values():
            if isinstance(part, nn.Module) and part is not self.denoiser:
                part.to(device)
                if own_dtype(part) != own_dtype(self.denoiser):
                    part.to(own_dtype(self.denoiser))
        known = inspect.signature(type(self.pipe).__call__).parameters
        size = {name: self.size for name in ("height", "width") if name in known}
        size |= self._limit(type(self.pipe).__call__)
        found = []
        for start in range(0, len(prompts), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            images = self.pipe(
                prompt=list(prompts[some]), generator=[generator(seed) for seed in seeds[some]], output_type="pt",
                num_inference_steps=steps, guidance_scale=guidance, **size,
            ).images  # fmt: skip
            found.append(as_bytes(images * 2 - 1))
        return torch.cat(found)


class StableDiffusion(PipelineModel):
    """Stable Diffusion 1 and 2: a UNet, one CLIP text encoder."""

    encoded = ("encoder_hidden_states",)

    def _asks(self) -> dict[str, Any]:
        return {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}

    def _call(self, denoiser: nn.Module, latents: Tensor, times: Tensor, told: Conditions) -> Tensor:
        return denoiser(latents, times, return_dict=False, **told)[0]


class StableDiffusion3(PipelineModel):
    """Stable Diffusion 3: a transformer, two CLIP text encoders and T5."""

    encoded = ("encoder_hidden_states", "", "pooled_projections", "")

    def _asks(self) -> dict[str, Any]:
        return {"prompt_2": None, "prompt_3": None, "do_classifier_free_guidance": False}

    def _call(self, denoiser: nn.Module, latents: Tensor, times: Tensor, told: Conditions) -> Tensor:
        return denoiser(hidden_states=latents, timestep=times, return_dict=False, **told)[0]


class Flux(PipelineModel):
    """Flux: a transformer that reads patches of 2 x 2 latents as a sequence, CLIP and T5; guidance is an input."""

    encoded = ("encoder_hidden_states", "pooled_projections", "")

    def _sample_size(self) -> int:
        return self.pipe.default_sample_size

    def _call(self, denoiser: nn.Module, latents: Tensor, times: Tensor, told: Conditions) -> Tensor:
        (size, channels, height, width), pipe = latents.shape, self.pipe
        places = pipe._prepare_latent_image_ids(size, height // 2, width // 2, latents.device, latents.dtype)
        length = told["encoder_hidden_states"].shape[1]
        guided = latents.new_ones(size) if self.denoiser.config.guidance_embeds else None  # as diffusers trains it
        found = denoiser(
            hidden_states=pipe._pack_latents(latents, size, channels, height, width),
            timestep=times / 1000,
            guidance=guided,
            txt_ids=latents.new_zeros(length, 3),
            img_ids=places,
            return_dict=False,
            **told,
        )[0]
        scale = pipe.vae_scale_factor
        return pipe._unpack_latents(found, height * scale, width * scale, scale)
