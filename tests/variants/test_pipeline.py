"""Adapters of a pipeline's models through the commands: with the pipeline, with one model, and with none."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra diffusion")

from tests.support.diffusion_models import diffusion_model, image, pipeline, same_file, text_encoder
from variants import DoRA, LoRA, VariantError, VeRA, attach, convert, formats
from variants.base_model import load_model
from variants.contract.models import shift
from variants.formats.native import read_adapter, save_adapter
from variants.pipeline import load_component

UNET = "UNet2DConditionModel"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline's folder, and one of its UNet alone."""
    root = tmp_path_factory.mktemp("pipeline")
    pipe = pipeline("sd", diffusion_model(UNET), text_encoder())
    pipe.save_pretrained(root / "all")
    pipe.unet.save_pretrained(root / "unet")
    return root


def trained(model, variant):
    adapted = attach(model, variant)
    for index, tensor in enumerate(adapted.trained().values()):
        shift(tensor, index, 0.2)
    return adapted


def run(*arguments) -> int:
    return convert.main([str(a) for a in arguments])


@pytest.fixture
def ours(tmp_path):
    """Adapters of both models as folders, and the picture that they make."""
    unet = trained(diffusion_model(UNET), LoRA(r=2, alpha=3.0, target="attn+conv"))
    text = trained(text_encoder(), LoRA(r=3, alpha=3.0, target="attn"))
    save_adapter(unet, tmp_path / "ours/unet")
    save_adapter(text, tmp_path / "ours/text_encoder")
    return tmp_path / "ours", image(pipeline("sd", unet.model, text.model))


def pictured(folder):
    """The picture of the adapters in a folder."""
    models = [diffusion_model(UNET), text_encoder()]
    own = [formats.load(model, folder / name) for model, name in zip(models, ("unet", "text_encoder"), strict=True)]
    return image(pipeline("sd", *(adapted.model for adapted in own)))


@pytest.mark.parametrize("to", ["diffusers", "kohya"])
def test_two_models_there_and_back(to, ours, folder, tmp_path, capsys) -> None:
    source, expected = ours
    file = tmp_path / "style.safetensors"
    assert run(source, file, "--to", to) == 0  # the shapes in the files do
    assert "lora of unet, lora of text_encoder" in capsys.readouterr().out
    pipe = pipeline("sd", diffusion_model(UNET), text_encoder())
    pipe.load_lora_weights(tmp_path, weight_name=file.name)
    assert (image(pipe) - expected).abs().max() < 1e-5
    assert run(file, tmp_path / "back", "--to", "ours", "--model", folder / "all") == 0
    assert torch.equal(pictured(tmp_path / "back"), expected)
    assert run(tmp_path / "back", tmp_path / "again.safetensors", "--to", to) == 0
    assert same_file(file, tmp_path / "again.safetensors")
    assert run(file, tmp_path / "one", "--to", "ours", "--model", folder / "unet") == 0
    assert read_adapter(tmp_path / "one")[0]["base"]["class"] == UNET
    assert run(file, tmp_path / "text", "--to", "ours", "--model", folder / "all", "--component", "text_encoder") == 0
    assert read_adapter(tmp_path / "text")[0]["base"]["class"] == "CLIPTextModel"
    without = run(file, tmp_path / "without", "--to", "ours")
    if to == "diffusers":
        assert without == 0 and torch.equal(pictured(tmp_path / "without"), expected)
    else:
        assert without == 2 and "give the model" in capsys.readouterr().err


def test_one_adapter_goes_through_all_formats(tmp_path, folder, capsys) -> None:
    adapted = trained(diffusion_model(UNET), DoRA(r=2, target="to_q,conv1"))
    save_adapter(adapted, tmp_path / "ours")
    expected = image(pipeline("sd", adapted.model))
    for source, target, to in (
        ("ours", "peft", "peft"),
        ("peft", "diffusers", "diffusers"),
        ("diffusers", "kohya.safetensors", "kohya"),
        ("kohya.safetensors", "back", "ours"),
    ):
        more = ["--component", "unet"] if source == "peft" else ["--model", folder / "unet"] if to == "ours" else []
        assert run(tmp_path / source, tmp_path / target, "--to", to, *more) == 0, capsys.readouterr().err
    loaded = formats.load(diffusion_model(UNET), tmp_path / "back")
    assert torch.equal(image(pipeline("sd", loaded.model)), expected)
    save_adapter(trained(diffusion_model(UNET), VeRA(r=2, target="conv1")), tmp_path / "vera")
    model = ("--model", folder / "all")
    assert run(tmp_path / "vera", tmp_path / "v.safetensors", "--to", "kohya", *model) == 2
    assert "--as lora" in capsys.readouterr().err
    assert run(tmp_path / "vera", tmp_path / "v.safetensors", "--to", "kohya", *model, "--as", "lora") == 0


def test_an_adapted_model_of_diffusers_saves_the_base_alone(tmp_path) -> None:
    model = diffusion_model(UNET)
    plain = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    adapted = trained(model, LoRA(r=2, target="attn+conv"))
    x = torch.randn(1, 4, 8, 8), torch.tensor(3), torch.randn(1, 7, 32)
    before = model(*x).sample
    model.save_pretrained(tmp_path)
    assert torch.equal(model(*x).sample, before)
    found = load_component(str(tmp_path), None).state_dict()
    assert found.keys() == plain.keys() and all(torch.equal(found[key], plain[key]) for key in plain)
    adapted.merge()
    model.save_pretrained(tmp_path / "merged")
    merged = load_component(str(tmp_path / "merged"), None).eval()
    assert (merged(*x).sample - before).abs().max() < 1e-5


def test_a_model_that_is_not_there_is_said(folder, ours) -> None:
    source, _ = ours
    assert type(load_model(str(folder / "all"), source / "unet")).__name__ == UNET
    with pytest.raises(VariantError, match="has no transformer: it has text_encoder, unet|unet, text_encoder"):
        load_component(str(folder / "all"), "transformer")
