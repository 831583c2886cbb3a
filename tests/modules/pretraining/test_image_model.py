"""The small image models learn, go on where they were stopped, and are written in diffusers' layout."""

import dataclasses
import functools
import json

import pytest
import torch
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel
from safetensors.torch import load_file

from modules.backbones.diffusion.families import load_image_model
from modules.backbones.diffusion.noising import noising_of
from modules.pretraining import image_model
from modules.pretraining.image_model import build, draw, loss_of, pretrain, scheduler_for, train
from modules.pretraining.settings import ImageSettings, parse_settings
from tests.support.tiny_images import SETTINGS, UNET
from variants.errors import UserError

CPU = torch.device("cpu")
KINDS = pytest.mark.parametrize("settings", [SETTINGS, UNET], ids=lambda settings: settings.model)


_pictures = functools.cache(image_model._pictures)


@pytest.fixture(autouse=True)
def sprites(monkeypatch):
    """They are drawn once for all tests."""
    monkeypatch.setattr(image_model, "_pictures", _pictures)
    return _pictures("sprites")


def test_batches_leave_words_out_and_put_spare_ones_in(sprites):
    batch = draw(sprites, 400, torch.Generator().manual_seed(0))
    assert batch["pictures"].shape == (400, 3, 32, 32) and batch["pictures"].abs().max() <= 1
    assert (batch["mask"][:, 0] == 1).all() and (batch["vectors"][:, 0].argmax(-1) == len(sprites.words.known)).all()
    words = batch["mask"][:, 1:].sum(1)
    assert 0.05 < (words == 0).float().mean() < 0.16 and words.max() == 6
    spare = batch["vectors"][:, 1].argmax(-1) > len(sprites.words.known)
    assert 0.05 < spare.float().mean() < 0.16


@KINDS
def test_the_loss_is_that_of_adapting(tmp_path, sprites, settings):
    """The folder that is written, read by `load_image_model`, trains adapters by the same noise and target."""
    pretrain(dataclasses.replace(settings, steps=1, out=tmp_path, painted=0))
    image_model, batch = load_image_model(tmp_path, "tiny"), draw(sprites, 4, torch.Generator().manual_seed(0))
    noised = image_model.noising()(batch["pictures"], batch["noise"], batch["levels"])
    told = {"encoder_hidden_states": batch["vectors"], "encoder_attention_mask": batch["mask"]}
    with torch.no_grad():
        found = image_model.predict(image_model.denoiser, noised.latents, noised.times, told)
        ours = loss_of(image_model.denoiser, noising_of(scheduler_for(settings)), batch)
    assert torch.allclose(ours, (found - noised.target).square().mean())


def test_a_unet_reads_every_word_of_the_prompt_and_no_padding(sprites):
    torch.manual_seed(0)
    model, batch = build(UNET, len(sprites.words)).eval(), draw(sprites, 4, torch.Generator().manual_seed(0))
    batch["mask"] = (torch.arange(batch["mask"].shape[1]) < 3).long().expand_as(batch["mask"])
    noising, losses = noising_of(scheduler_for(UNET)), []
    for place in (None, 1, 5):
        vectors = batch["vectors"].clone()
        if place is not None:
            vectors[:, place] = 0
        with torch.no_grad():
            losses.append(loss_of(model, noising, batch | {"vectors": vectors}))
    assert losses[1] != losses[0] and losses[2] == losses[0]


@KINDS
def test_it_learns(tmp_path, sprites, settings):
    settings = dataclasses.replace(settings, steps=12 if settings is UNET else 60, lr=1e-2, out=tmp_path)
    noising = noising_of(scheduler_for(settings))
    torch.manual_seed(0)
    model, batch = build(settings, len(sprites.words)), draw(sprites, 64, torch.Generator().manual_seed(9))
    with torch.no_grad():
        before = loss_of(model, noising, batch)
    train(settings, model, sprites, CPU)
    with torch.no_grad():
        assert loss_of(model, noising, batch) < 0.8 * before


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


@pytest.mark.parametrize(
    "settings, name, kind",
    [(SETTINGS, "transformer", PixArtTransformer2DModel), (UNET, "unet", UNet2DConditionModel)],
    ids=["dit", "unet"],
)
def test_the_folder(tmp_path, capsys, settings, name, kind):
    folder = tmp_path / "model"
    assert pretrain(dataclasses.replace(settings, steps=2, out=folder)) == 0
    assert "written to" in capsys.readouterr().out
    index = json.loads((folder / "model_index.json").read_text())
    assert index[name] == ["diffusers", kind.__name__]
    weights = load_file(folder / name / "diffusion_pytorch_model.safetensors")
    assert set(weights) == set(kind.from_pretrained(folder / name).state_dict())
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert not (folder / "checkpoint.pt").exists()
    record = json.loads((folder / "pretraining.json").read_text())
    assert record["model"] == settings.model and record["painted"]["pictures"] == 2
    again = dataclasses.replace(settings, steps=1, start=str(folder), out=tmp_path / "again", painted=0)
    assert pretrain(again) == 0
    assert json.loads((tmp_path / "again" / "pretraining.json").read_text())["started_from"]["steps"] == 2


def test_mistakes_are_one_line(tmp_path):
    for change, told in (({"patch": 5}, "must divide"), ({"pictures": "cats"}, "must be sprites")):
        with pytest.raises(UserError, match=told):
            pretrain(dataclasses.replace(ImageSettings(out=tmp_path), **change))
    with pytest.raises(UserError, match="--model gan: must be dit or unet"):
        parse_settings(ImageSettings, "", ["--model", "gan", "--out", str(tmp_path)])
    with pytest.raises(UserError, match="--hidden 40: must be a multiple of 24"):
        parse_settings(ImageSettings, "", ["--model", "unet", "--hidden", "40", "--out", str(tmp_path)])
    pretrain(dataclasses.replace(SETTINGS, steps=1, out=tmp_path, painted=0))
    with pytest.raises(UserError, match="no such model of this size"):
        pretrain(dataclasses.replace(UNET, steps=1, start=str(tmp_path), out=tmp_path / "other"))
