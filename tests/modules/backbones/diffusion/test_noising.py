"""Noise and targets are those of diffusers' own schedulers and training functions."""

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_snr

from modules.backbones.diffusion.noising import noising_of
from variants.errors import UserError

CLEAN, NOISE = torch.randn(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LEVELS = torch.tensor([0.01, 0.2, 0.5, 0.7, 0.99])


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_adds_noise_as_the_scheduler_does(shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    found = noising_of(scheduler)(CLEAN, NOISE, LEVELS)
    sigmas = found.times / 1000
    level = sigmas.view(-1, 1, 1, 1)
    assert torch.allclose(found.latents, (1 - level) * CLEAN + level * NOISE)
    # a step of the sampler along the target from here to σ = 0 gives the picture back
    assert torch.allclose(found.latents - level * found.target, CLEAN, atol=1e-6)
    unshifted = torch.special.ndtri(LEVELS).sigmoid()
    assert torch.allclose(sigmas, shift * unshifted / (1 + (shift - 1) * unshifted))
    assert sigmas[2].item() == pytest.approx(shift / (1 + shift))  # the median of a logit-normal is a half


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_ddpm_is_that_of_diffusers(predicts):
    scheduler = DDPMScheduler(prediction_type=predicts)
    found = noising_of(scheduler)(CLEAN, NOISE, LEVELS)
    assert found.times.tolist() == [10, 200, 500, 700, 990] and set(found.weights.tolist()) == {1.0}
    assert torch.allclose(found.latents, scheduler.add_noise(CLEAN, NOISE, found.times))
    target = NOISE if predicts == "epsilon" else scheduler.get_velocity(CLEAN, NOISE, found.times)
    assert torch.allclose(found.target, target, atol=1e-6)


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_min_snr_weights_are_those_of_diffusers_training_scripts(predicts):
    scheduler = DDPMScheduler(prediction_type=predicts)
    found = noising_of(scheduler, snr_gamma=5.0)(CLEAN, NOISE, LEVELS)
    snr = compute_snr(scheduler, found.times)
    least = torch.stack([snr, torch.full_like(snr, 5.0)], 1).min(1).values
    assert torch.allclose(found.weights, least / (snr + 1 if predicts == "v_prediction" else snr), rtol=1e-4)


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(UserError, match="snr_gamma is for DDPM"):
        noising_of(FlowMatchEulerDiscreteScheduler(), snr_gamma=5.0)
    with pytest.raises(UserError, match="predicts 'sample'"):
        noising_of(DDPMScheduler(prediction_type="sample"))
    with pytest.raises(UserError, match="neither of flow matching nor of DDPM"):
        noising_of(EDMEulerScheduler())
