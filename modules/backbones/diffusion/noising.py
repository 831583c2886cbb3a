"""How noise is added to pictures in training, and what the model is to say of it, by the model's own scheduler."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from variants.errors import UserError


class Noised(NamedTuple):
    """A batch as a denoiser sees it.

    Attributes:
        latents: (B, C, H, W), with noise.
        times: (B,), as the denoiser takes them.
        target: (B, C, H, W), what it is to give.
        weights: (B,), of the losses.
    """

    latents: Tensor
    times: Tensor
    target: Tensor
    weights: Tensor


class Noising:
    """The interface: ``noising(clean, noise, levels)`` of latents, noise (B, C, H, W) and levels (B,) in (0, 1)."""

    words: str

    def __call__(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Noised:
        """Latents with noise, and what is to be said of them."""
        raise NotImplementedError


class Flow(Noising):
    """Flow matching: x = (1 - σ) clean + σ noise, target noise - clean.

    σ is logit-normal (Esser et al. 2024, eq. 19), shifted as the scheduler shifts it in sampling.

    Args:
        shift: of the scheduler.
        steps: the time of σ = 1.
    """

    words = "flow matching"

    def __init__(self, shift: float = 1.0, steps: int = 1000) -> None:
        self.shift, self.steps = shift, steps

    def __call__(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Noised:
        """See `Noising`: levels are quantiles of σ before the shift."""
        sigmas = torch.special.ndtri(levels).sigmoid()
        sigmas = self.shift * sigmas / (1 + (self.shift - 1) * sigmas)
        level = sigmas.view(-1, *[1] * (clean.ndim - 1))
        return Noised((1 - level) * clean + level * noise, sigmas * self.steps, noise - clean, torch.ones_like(levels))


class Diffusion(Noising):
    """DDPM (Ho et al. 2020): x = √ᾱ clean + √(1-ᾱ) noise at a uniform step; the target is the noise, or v.

    Args:
        alphas: ᾱ of each step (T,).
        predicts: "epsilon" or "v_prediction".
        snr_gamma: γ of min-SNR weights (Hang et al. 2023): min(SNR, γ) / SNR, for v over SNR + 1; 0: all weigh 1.
    """

    words = "DDPM"

    def __init__(self, alphas: Tensor, predicts: str = "epsilon", snr_gamma: float = 0.0) -> None:
        if predicts not in ("epsilon", "v_prediction"):
            raise UserError(
                f"the model's scheduler predicts {predicts!r}: only epsilon and v_prediction can be trained"
            )
        self.alphas, self.predicts, self.snr_gamma = alphas, predicts, snr_gamma

    def __call__(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Noised:
        """See `Noising`: levels are shares of all steps."""
        self.alphas = self.alphas.to(clean.device)
        times = (levels * len(self.alphas)).long().clamp(max=len(self.alphas) - 1)
        alphas = self.alphas[times]
        a, s = (part.sqrt().view(-1, *[1] * (clean.ndim - 1)) for part in (alphas, 1 - alphas))
        velocity = self.predicts == "v_prediction"
        weights = torch.ones_like(levels)
        if self.snr_gamma:
            snr = alphas / (1 - alphas)
            weights = snr.clamp(max=self.snr_gamma) / (snr + 1 if velocity else snr)
        return Noised(a * clean + s * noise, times, a * noise - s * clean if velocity else noise, weights)


def noising_of(scheduler: Any, snr_gamma: float = 0.0) -> Noising:
    """That of a scheduler of diffusers.

    Raises:
        UserError: min-SNR is asked of flow matching, or the scheduler is of neither kind.
    """
    config = scheduler.config
    if "FlowMatch" in type(scheduler).__name__:
        if snr_gamma:
            raise UserError("--snr_gamma is for DDPM: this model was trained by flow matching, leave it out")
        return Flow(float(config.get("shift") or 1.0), config.num_train_timesteps)
    if getattr(scheduler, "alphas_cumprod", None) is None:
        raise UserError(f"{type(scheduler).__name__} is neither of flow matching nor of DDPM")
    alphas = scheduler.alphas_cumprod.float()
    if config.get("rescale_betas_zero_snr"):  # ᾱ is 0 at the last step: no noise could be found in noise alone
        alphas = alphas.clamp(min=1e-8)
    return Diffusion(alphas, config.get("prediction_type", "epsilon"), snr_gamma)
