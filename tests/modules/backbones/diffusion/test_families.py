"""Each family's denoiser is called as diffusers' own pipeline calls it, and pictures come from fixed noise."""

import json

import pytest
import torch

from modules.backbones.diffusion.families import load_image_model
from tests.support import tiny_pipelines
from tests.support.tiny_images import tiny_dit
from variants.errors import UserError

PROMPTS, SEEDS = ["a red dog", "cat"], [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["stable_diffusion", "stable_diffusion_3", "flux"])
def test_a_pipeline_asks_its_denoiser_as_training_does(tmp_path, family):
    model = load_image_model(getattr(tiny_pipelines, family)(tmp_path), family)
    if family == "flux":
        model.resize(16)
    seen = []
    hook = model.denoiser.register_forward_hook(
        lambda module, args, kwargs, output: seen.append((args, kwargs, output[0])), with_kwargs=True
    )
    painted = model.paint(PROMPTS, SEEDS, steps=3, guidance=1.0)
    hook.remove()
    assert painted.shape == (2, 3, model.size, model.size) and painted.dtype == torch.uint8 and len(seen) == 3
    args, kwargs, theirs = seen[1]
    if family == "stable_diffusion":
        latents, times = args[0], args[1].expand(2)
    elif family == "flux":
        scale = model.pipe.vae_scale_factor
        latents, theirs = (
            model.pipe._unpack_latents(each, 16, 16, scale) for each in (kwargs["hidden_states"], theirs)
        )
        times = kwargs["timestep"] * 1000
    else:
        latents, times = kwargs["hidden_states"], kwargs["timestep"]
    with torch.no_grad():
        ours = model.predict(model.denoiser, latents, times, model.conditions(PROMPTS))
    assert torch.allclose(ours, theirs, atol=1e-5) and theirs.std() > 0.01
    alone = model.paint(PROMPTS[1:], SEEDS[1:], steps=3, guidance=1.0)
    assert (painted[1:].int() - alone.int()).abs().max() <= 1
    with torch.no_grad():  # encode undoes what the pipeline does before it decodes
        latents, vae = model.encode(painted.float() / 127.5 - 1), model.pipe.vae
        shift = vae.config.shift_factor or 0.0
        mean = vae.encode(painted.float() / 127.5 - 1).latent_dist.mode()
    assert torch.allclose(latents / vae.config.scaling_factor + shift, mean, atol=1e-5)


def test_the_small_model_paints_a_prompt_alike_whatever_stands_beside_it(tmp_path):
    model = load_image_model(tiny_dit(tmp_path), "tiny")
    both = model.paint(["two red circles", "sks"], SEEDS, steps=3, guidance=2.0)
    alone = model.paint(["sks"], SEEDS[1:], steps=3, guidance=2.0)
    assert (both[1:].int() - alone.int()).abs().max() <= 1 and not torch.equal(both[0], both[1])
    stacked = model.paint(["two red circles", "sks"], SEEDS, steps=3, guidance=2.0, copies=2)
    assert (stacked.int() - torch.cat([both, both]).int()).abs().max() <= 1


def test_mistakes_are_one_line(tmp_path):
    tiny_dit(tmp_path / "a")
    (tmp_path / "a" / "words.json").write_text(json.dumps({"longest": 5, "known": ["red"]}))
    with pytest.raises(UserError, match="words.json is of another model"):
        load_image_model(tmp_path / "a", "tiny")
    index = tmp_path / "a" / "model_index.json"
    index.write_text(index.read_text().replace("WordsPipeline", "AudioPipeline"))
    with pytest.raises(UserError, match="is a AudioPipeline: image models that can be adapted are"):
        load_image_model(tmp_path / "a", "tiny")
    with pytest.raises(UserError, match="alone, leave it out"):
        load_image_model(tiny_dit(tmp_path / "b"), "tiny").resize(64)
