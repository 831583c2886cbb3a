"""What an image model is to training and painting: the interface of all families."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from modules.backbones.diffusion.noising import Noising, noising_of
from variants.errors import UserError

Conditions = dict[str, Tensor]
"""What a denoiser is told of each prompt, by the name of its argument, each (B, ...)."""
AT_ONCE = 32
"""Pictures that are painted, encoded or read at once."""


class ImageModel:
    """The interface.

    Attributes:
        denoiser: what is adapted.
        size: pixels of a picture's side.
        max_tokens: of a prompt, that T5 reads.
        pixel_art: whether pixels are latents: pictures are kept sharp where they are enlarged.
        stacks: whether pictures of several stacked adapters can be painted at once.
    """

    denoiser: nn.Module
    scheduler: Any
    size: int
    max_tokens: int = 256
    pixel_art: ClassVar[bool] = False
    stacks: ClassVar[bool] = False

    def noising(self, snr_gamma: float = 0.0) -> Noising:
        """How noise is added in training."""
        return noising_of(self.scheduler, snr_gamma)

    def resize(self, size: int) -> None:
        """Pictures of another size from now on. Raises UserError where the model cannot."""
        raise UserError(f"--resolution {size}: this model paints pictures of {self.size} pixels alone, leave it out")

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


def generator(seed: int) -> torch.Generator:
    """Of random numbers that are the same on every device."""
    return torch.Generator().manual_seed(seed)


def as_bytes(pixels: Tensor) -> Tensor:
    """uint8 of pictures in [-1, 1], on the CPU."""
    return ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def own_dtype(denoiser: nn.Module) -> torch.dtype:
    """Of a denoiser's own weights, whatever that of an adapter is."""
    return next(denoiser.parameters()).dtype
