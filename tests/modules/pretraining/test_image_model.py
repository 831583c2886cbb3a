"""The small diffusion transformer learns, goes on where it was stopped, and is written in diffusers' layout."""

import dataclasses
import json

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from safetensors.torch import load_file

from modules.backbones.diffusion.noising import Flow
from modules.pretraining import image_model
from modules.pretraining.image_model import build, draw, loss_of, pretrain, scheduler_for, train
from modules.pretraining.settings import ImageSettings
from tests.support.tiny_images import SETTINGS
from variants.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sprites():
    return image_model._pictures("sprites")


def test_batches_leave_words_out_and_put_spare_ones_in(sprites):
    batch = draw(sprites, 400, torch.Generator().manual_seed(0))
    assert batch["pictures"].shape == (400, 3, 32, 32) and batch["pictures"].abs().max() <= 1
    assert (batch["mask"][:, 0] == 1).all() and (batch["vectors"][:, 0].argmax(-1) == len(sprites.words.known)).all()
    words = batch["mask"][:, 1:].sum(1)
    assert 0.05 < (words == 0).float().mean() < 0.16 and words.max() == 6
    spare = batch["vectors"][:, 1].argmax(-1) > len(sprites.words.known)
    assert 0.05 < spare.float().mean() < 0.16


def test_the_loss_is_that_of_adapting(sprites):
    """`Flow`, which training adapters uses, adds the same noise and asks for the same."""
    torch.manual_seed(0)
    model, batch = build(SETTINGS, len(sprites.words)), draw(sprites, 4, torch.Generator().manual_seed(0))
    noised = Flow()(batch["pictures"], batch["noise"], torch.special.ndtr(batch["sigmas"].logit()))
    with torch.no_grad():
        found = model(
            noised.latents, encoder_hidden_states=batch["vectors"], encoder_attention_mask=batch["mask"],
            timestep=noised.times, added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample  # fmt: skip
        assert torch.allclose(loss_of(model, batch), (found - noised.target).square().mean(), atol=1e-4)


def test_it_learns(tmp_path, sprites):
    settings = dataclasses.replace(SETTINGS, steps=60, lr=1e-2, out=tmp_path)
    torch.manual_seed(0)
    model, batch = build(settings, len(sprites.words)), draw(sprites, 64, torch.Generator().manual_seed(9))
    with torch.no_grad():
        before = loss_of(model, batch)
    train(settings, model, sprites, CPU)
    with torch.no_grad():
        assert loss_of(model, batch) < 0.8 * before


def test_a_stopped_training_goes_on(tmp_path, sprites, monkeypatch):
    settings = dataclasses.replace(SETTINGS, steps=12, out=tmp_path)
    monkeypatch.setattr(image_model, "EVERY", -1)
    calls = []

    def stopped(*args):
        calls.append(args)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return draw(*args)

    monkeypatch.setattr(image_model, "draw", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(settings, build(settings, len(sprites.words)), sprites, CPU)
    monkeypatch.setattr(image_model, "draw", draw)
    _, steps, _ = train(settings, build(settings, len(sprites.words)), sprites, CPU)
    assert steps == 12
    with pytest.raises(UserError, match="other flags"):
        train(dataclasses.replace(settings, lr=1.0), build(settings, len(sprites.words)), sprites, CPU)


def test_the_folder(tmp_path, capsys):
    assert pretrain(dataclasses.replace(SETTINGS, steps=2, out=tmp_path / "dit")) == 0
    assert "written to" in capsys.readouterr().out
    index = json.loads((tmp_path / "dit" / "model_index.json").read_text())
    assert index["transformer"] == ["diffusers", "PixArtTransformer2DModel"]
    model = PixArtTransformer2DModel.from_pretrained(tmp_path / "dit" / "transformer")
    weights = load_file(tmp_path / "dit" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert set(weights) == set(model.state_dict()) and {value.dtype for value in weights.values()} == {torch.float16}
    assert not (tmp_path / "dit" / "checkpoint.pt").exists()
    for change, told in (({"patch": 5}, "must divide"), ({"pictures": "cats"}, "must be sprites")):
        with pytest.raises(UserError, match=told):
            pretrain(dataclasses.replace(ImageSettings(out=tmp_path), **change))
