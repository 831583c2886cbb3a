"""Image models: what they make of prompts and pictures, how their denoiser is called, and how they paint.

`ImageModel` is the interface; a family of pipelines is a subclass and a line in `FAMILIES`. Stable Diffusion, SD3 and
Flux are diffusers' own pipelines, whose parts are used as they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from modules.backbones.diffusion import folder as layout
from modules.backbones.diffusion.noising import Noising, noising_of
from modules.backbones.diffusion.words import Words
from variants.base_model import quiet
from variants.errors import UserError, first_line

Conditions = dict[str, Tensor]
"""What a denoiser is told of each prompt, by the name of its argument, each (B, ...)."""
AT_ONCE = 32
"""Pictures that are painted, encoded or read at once."""


class ImageModel:
    """The interface.

    Attributes:
        denoiser: what is adapted.
        size: pixels of a picture's side.
        pixel_art: whether pixels are latents: pictures are kept sharp where they are enlarged.
        stacks: whether pictures of several stacked adapters can be painted at once.
    """

    denoiser: nn.Module
    scheduler: Any
    size: int
    pixel_art: ClassVar[bool] = False
    stacks: ClassVar[bool] = False

    def noising(self, snr_gamma: float = 0.0) -> Noising:
        """How noise is added in training."""
        return noising_of(self.scheduler, snr_gamma)

    def resize(self, size: int) -> None:
        """Pictures of another size from now on. Raises UserError where the model cannot."""
        raise UserError(f"--resolution {size}: this model paints pictures of {self.size} pixels alone, leave it out")

    @property
    def dtype(self) -> torch.dtype:
        """Of the denoiser's own weights, whatever that of an adapter is."""
        return next(self.denoiser.parameters()).dtype

    def conditions(self, prompts: Sequence[str]) -> Conditions:
        """What the denoiser is told of prompts, on the CPU."""
        raise NotImplementedError

    def encode(self, pixels: Tensor) -> Tensor:
        """Latents (B, C, h, w) of pictures (B, 3, H, W) in [-1, 1], on the CPU."""
        raise NotImplementedError

    def predict(self, denoiser: nn.Module, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """The denoiser's output (B, C, h, w)."""
        raise NotImplementedError

    def paint(
        self, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float, copies: int = 1
    ) -> Tensor:
        """Pictures (copies x B, 3, H, H) uint8, on the CPU: of B prompts, with the noise of B seeds.

        Args:
            guidance: of classifier-free guidance; 1 is none.
            copies: stacked adapters, which all paint the same.
        """
        raise NotImplementedError


class WordsModel(ImageModel):
    """A PixArt transformer on pixels, with prompts as bags of words: the small model that ships with the project."""

    pixel_art, stacks = True, True

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        diffusers = layout.library()
        self.denoiser = diffusers.PixArtTransformer2DModel.from_pretrained(
            folder / "transformer", dtype=dtype, use_safetensors=True, low_cpu_mem_usage=False
        )
        self.scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
        self.words, self.size = Words.load(folder), int(self.denoiser.config.sample_size)
        if self.denoiser.config.caption_channels != len(self.words):
            raise UserError(f"{folder}: words.json is of another model than the transformer beside it")

    def conditions(self, prompts: Sequence[str]) -> Conditions:
        """See `ImageModel`: word vectors (B, L, V) and which of them are there (B, L)."""
        vectors, mask = self.words.encode(prompts)
        return {"encoder_hidden_states": vectors, "encoder_attention_mask": mask}

    def encode(self, pixels: Tensor) -> Tensor:
        """See `ImageModel`: the pixels."""
        return pixels

    def predict(self, denoiser: nn.Module, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """See `ImageModel`."""
        own = self.dtype
        conditions = conditions | {"encoder_hidden_states": conditions["encoder_hidden_states"].to(own)}
        known = {"resolution": None, "aspect_ratio": None}
        return denoiser(latents.to(own), timestep=times, added_cond_kwargs=known, return_dict=False, **conditions)[0]

    @torch.no_grad()
    def paint(
        self, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float, copies: int = 1
    ) -> Tensor:
        """See `ImageModel`."""
        device, parts = next(self.denoiser.parameters()).device, []
        for start in range(0, len(prompts), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            parts.append(self._paint(prompts[some], seeds[some], steps, guidance, copies, device))
        return torch.cat([torch.cat([part.chunk(copies)[n] for part in parts]) for n in range(copies)])

    def _paint(self, prompts, seeds, steps, guidance, copies, device) -> Tensor:
        def repeated(tensor: Tensor) -> Tensor:
            return torch.cat([tensor] * copies).to(device)

        shape = (3, self.size, self.size)
        latents = repeated(torch.stack([torch.randn(shape, generator=generator(seed)) for seed in seeds]))
        told = {name: repeated(value) for name, value in self.conditions(prompts).items()}
        empty = {name: repeated(value) for name, value in self.conditions([""] * len(prompts)).items()}
        self.scheduler.set_timesteps(steps)
        for time in self.scheduler.timesteps:
            times = time.to(device).expand(len(latents))
            found = self.predict(self.denoiser, latents, times, told).float()
            if guidance != 1:
                free = self.predict(self.denoiser, latents, times, empty).float()
                found = free + guidance * (found - free)
            latents = self.scheduler.step(found, time, latents, return_dict=False)[0]
        return as_bytes(latents)


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
            values = self.pipe.encode_prompt(prompt, device=device, **self._asks())
            pairs = zip(self.encoded, values, strict=False)
            every[prompt] = {name: value.cpu() for name, value in pairs if name and value is not None}
        return {name: torch.cat([every[prompt][name] for prompt in prompts]) for name in every[prompts[0]]}

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
        told = {name: value.to(self.dtype) for name, value in conditions.items()}
        return self._call(denoiser, latents.to(self.dtype), times, told)

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
                if next(part.parameters()).dtype != self.dtype:
                    part.to(self.dtype)
        known = inspect.signature(type(self.pipe).__call__).parameters
        size = {name: self.size for name in ("height", "width") if name in known}
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


FAMILIES: dict[str, type[ImageModel]] = {
    "WordsPipeline": WordsModel,
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
}
"""By the ``_class_name`` of model_index.json."""


def load_image_model(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> ImageModel:
    """The image model of a folder in diffusers' layout; from safetensors alone.

    Raises:
        UserError: it is of no family that is known here, or cannot be loaded.
    """
    kind = layout.parts(folder)["_class_name"]
    if kind not in FAMILIES:
        raise UserError(f"model {name!r} is a {kind}: image models that can be adapted are {', '.join(FAMILIES)}")
    logging = layout.library().utils.logging
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with quiet():
            return FAMILIES[kind](folder, dtype)
    except UserError:
        raise
    except Exception as error:  # diffusers and transformers raise a dozen kinds
        raise UserError(f"model {name!r} cannot be loaded: {first_line(error)}") from error


def generator(seed: int) -> torch.Generator:
    """Of random numbers that are the same on every device."""
    return torch.Generator().manual_seed(seed)


def as_bytes(pixels: Tensor) -> Tensor:
    """uint8 of pictures in [-1, 1], on the CPU."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()
