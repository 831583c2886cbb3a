"""The family of the small models that ship with the project, which work on pixels, with prompts as bags of words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from modules.backbones.diffusion import folder as layout
from modules.backbones.diffusion.image_model import AT_ONCE, Conditions, ImageModel, as_bytes, generator, own_dtype
from modules.backbones.diffusion.words import Words
from variants.errors import UserError

VOCABULARIES = ("caption_channels", "encoder_hid_dim")
"""What the configurations of PixArt's transformer and of a UNet call the width of a word vector."""


class WordsModel(ImageModel):
    """A PixArt transformer or a UNet on pixels: prompts are bags of words, whose first linear map is their table."""

    pixel_art, stacks = True, True

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        name, _ = layout.denoiser_of(folder)
        self.denoiser = layout.denoiser_class(folder).from_pretrained(
            folder / name, dtype=dtype, use_safetensors=True, low_cpu_mem_usage=False
        )
        self.scheduler = layout.scheduler_class(folder).from_pretrained(folder / "scheduler")
        self.words, self.size = Words.load(folder), int(self.denoiser.config.sample_size)
        if len(self.words) not in (self.denoiser.config.get(entries) for entries in VOCABULARIES):
            raise UserError(f"{folder}: words.json is of another model than the {name} beside it")

    def conditions(self, prompts: Sequence[str]) -> Conditions:
        """See `ImageModel`: word vectors (B, L, V) and which of them are there (B, L)."""
        vectors, mask = self.words.encode(prompts)
        return {"encoder_hidden_states": vectors, "encoder_attention_mask": mask}

    def encode(self, pixels: Tensor) -> Tensor:
        """See `ImageModel`: the pixels."""
        return pixels

    def predict(self, denoiser: nn.Module, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """See `ImageModel`."""
        own = own_dtype(denoiser)
        conditions = conditions | {"encoder_hidden_states": conditions["encoder_hidden_states"].to(own)}
        return predicted(denoiser, latents.to(own), times, conditions)

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


def predicted(denoiser: nn.Module, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
    """The output (B, C, h, w) of a PixArt transformer or a UNet; the former asks for two arguments, unused here."""
    known = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
    return denoiser(latents, timestep=times, return_dict=False, **known, **conditions)[0]
