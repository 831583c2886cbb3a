"""diffusers' files: loaded in its own pipelines, and its pipelines' files loaded here."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers", reason="needs the extra diffusion")

from peft import LoraConfig

from tests.support.diffusion_models import diffusion_model, image, pipeline, same_file, text_encoder, trained
from variants import DoRA, LoRA, VariantError, VeRA, formats
from variants.contract.models import shift
from variants.formats import diffusers
from variants.formats.peft import AsLoRA

DENOISERS = {
    "sd": ("unet", "UNet2DConditionModel", "attn+conv"),
    "sd3": ("transformer", "SD3Transformer2DModel", "attn"),
    "flux": ("transformer", "FluxTransformer2DModel", "all-linear"),
}


@pytest.fixture(autouse=True)
def quiet():
    """diffusers says of each model that a file has nothing for it."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)


@pytest.mark.parametrize("variant", [LoRA, DoRA])
@pytest.mark.parametrize("kind", DENOISERS)
def test_a_pipeline_loads_it(kind, variant, tmp_path) -> None:
    component, name, target = DENOISERS[kind]
    model = diffusion_model(name)
    pipe = pipeline(kind, model)
    plain = image(pipe)
    adapted = trained(model, variant(r=3, alpha=5.0, target=target, per_layer={"*to_k": {"r": 2, "alpha": 7.0}}))
    expected = image(pipe)
    assert (expected - plain).abs().max() > 1e-3
    file = diffusers.save({component: adapted}, tmp_path)
    other = pipeline(kind, diffusion_model(name))
    other.load_lora_weights(tmp_path)
    assert (image(other) - expected).abs().max() < 1e-5
    loaded = formats.load(diffusion_model(name), tmp_path)
    own = adapted.state_dict()
    assert own.keys() == loaded.state_dict().keys()
    assert all(torch.equal(own[key], tensor) for key, tensor in loaded.state_dict().items())
    again = diffusers.save({component: loaded}, tmp_path / "again.safetensors")
    assert same_file(again, file)  # alphas and all


def test_a_file_of_several_models(tmp_path) -> None:
    unet, encoder = diffusion_model("UNet2DConditionModel"), text_encoder()
    pipe = pipeline("sd", unet, encoder)
    of_unet = trained(unet, LoRA(r=2, alpha=4.0, target="attn"))
    of_text = trained(encoder, LoRA(r=3, alpha=1.0, target="attn,up"))
    expected = image(pipe)
    diffusers.save({"unet": of_unet, "text_encoder": of_text}, tmp_path)
    other = pipeline("sd", diffusion_model("UNet2DConditionModel"), text_encoder())
    other.load_lora_weights(tmp_path)
    assert (image(other) - expected).abs().max() < 1e-5
    own = formats.load(text_encoder(), tmp_path)
    x = torch.arange(3, 10)[None]
    assert torch.equal(own.model(x)[0], encoder(x)[0])
    two = diffusers.save({"text_encoder": of_text, "text_encoder_2": of_text}, tmp_path / "two.safetensors")
    with pytest.raises(VariantError, match="name one"):
        formats.load(text_encoder(), two)
    own = formats.load(text_encoder(), two, component="text_encoder_2")
    assert torch.equal(own.model(x)[0], encoder(x)[0])


@pytest.mark.parametrize("dora", [False, True])
def test_what_a_pipeline_saves_is_read(dora, tmp_path) -> None:
    pipe = pipeline("sd", diffusion_model("UNet2DConditionModel"))
    targets = ["to_q", "to_k", "conv1", "conv_in"]
    pipe.unet.add_adapter(LoraConfig(r=4, lora_alpha=7, target_modules=targets, use_dora=dora, init_lora_weights=False))
    expected = image(pipe)
    from diffusers.training_utils import _collate_lora_metadata
    from peft import get_peft_model_state_dict

    state, header = get_peft_model_state_dict(pipe.unet), _collate_lora_metadata({"unet": pipe.unet})
    type(pipe).save_lora_weights(tmp_path, unet_lora_layers=state, **header)
    own = formats.load(diffusion_model("UNet2DConditionModel"), tmp_path)
    assert own.variant.alpha == 7.0 and own.variant.name == ("dora" if dora else "lora")
    assert (image(pipeline("sd", own.model)) - expected).abs().max() < 1e-5
    file = tmp_path / diffusers.FILE
    without = tmp_path / "without.safetensors"
    save_file(load_file(file), without)
    assert formats.load(diffusion_model("UNet2DConditionModel"), without).variant.alpha == 4.0  # diffusers' rule


def test_older_names_are_read(tmp_path) -> None:
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    a, b = torch.randn(2, 8), torch.randn(8, 2)
    tensors = {}
    for place in (
        f"unet.{block}.attn1.processor.to_q_lora",
        f"unet.{block}.attn1.processor.to_out_lora",
        f"unet.{block}.attn2.to_q.lora",
        f"unet.{block}.ff.net.2.lora",
    ):
        into = 32 if "net.2" in place else 8
        tensors |= {f"{place}.down.weight": torch.randn(2, into), f"{place}.up.weight": b}
    place = "text_encoder.text_model.encoder.layers.0.self_attn"
    a = torch.randn(2, 32)
    tensors[f"{place}.to_out_lora.down.weight"], tensors[f"{place}.to_out_lora.up.weight"] = a, a.mT.contiguous()
    tensors[f"{place}.q_proj.lora_linear_layer.down.weight"] = a
    tensors[f"{place}.q_proj.lora_linear_layer.up.weight"] = a.mT.contiguous()
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / "old.safetensors")
    own = formats.load(diffusion_model("UNet2DConditionModel"), tmp_path / "old.safetensors")
    ends = {layer.site.path.removeprefix(f"{block}.") for layer in own.layers}
    assert ends == {"attn1.to_q", "attn1.to_out.0", "attn2.to_q", "ff.net.2"}
    own = formats.load(text_encoder(), tmp_path / "old.safetensors")
    assert {layer.site.path.rpartition(".")[2] for layer in own.layers} == {"q_proj", "out_proj"}


def test_what_fits_and_what_does_not_is_said(tmp_path) -> None:
    adapted = trained(diffusion_model("SD3Transformer2DModel"), LoRA(r=2, target="attn"))
    file = diffusers.save({"transformer": adapted}, tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match=r"\d+ of \d+ keys matched; not 'transformer.transformer_blocks"):
        loaded = formats.load(diffusion_model("SD3Transformer2DModel", num_layers=1), file)
    assert len(loaded.layers) < len(adapted.layers)
    with pytest.raises(VariantError, match="it has transformer|has transformer") as error:
        formats.load(diffusion_model("UNet2DConditionModel"), file)
    assert "\n" not in str(error.value)
    with pytest.raises(VariantError, match="0 of 8 keys matched.*nothing of the file fits"):
        renamed = {f"transformer.other.{i}.lora_{x}.weight": torch.ones(2, 2) for i in range(4) for x in "AB"}
        save_file(renamed, tmp_path / "b.safetensors")
        formats.load(diffusion_model("SD3Transformer2DModel"), tmp_path / "b.safetensors")
    save_file({"unet.conv_in.lora_A.weight": torch.ones(2, 4, 3, 3)}, tmp_path / "c.safetensors")
    with pytest.raises(VariantError, match="lacks lora_B"):
        formats.load(diffusion_model("UNet2DConditionModel"), tmp_path / "c.safetensors")


def test_other_methods_go_as_lora(tmp_path) -> None:
    model = diffusion_model("UNet2DConditionModel")
    adapted = trained(model, VeRA(r=4, target="to_q,conv1"))
    expected = image(pipeline("sd", model))
    with pytest.raises(VariantError, match="only for lora and dora; as LoRA it computes the same"):
        diffusers.save({"unet": adapted}, tmp_path)
    diffusers.save({"unet": adapted}, tmp_path, as_lora=True)
    other = pipeline("sd", diffusion_model("UNet2DConditionModel"))
    other.load_lora_weights(tmp_path)
    assert (image(other) - expected).abs().max() < 1e-5
    near = diffusers.save(
        {"unet": trained(model.__class__.from_config(model.config), DoRA(r=2, target="conv1"))},
        tmp_path / "near.safetensors",
        as_lora=AsLoRA(3),
    )
    with safe_open(near, "pt") as file:
        assert json.loads(file.metadata()[diffusers.METADATA])["unet.use_dora"] is False


# ---- several at once ----------------------------------------------------------------------------------------------

WEIGHTS = {
    "numbers": (0.7, -0.5),
    "blocks": ({"down": 0.9, "mid": 0.5, "up": {"block_1": [0.3, 1.2]}}, 0.4),
}


@pytest.mark.parametrize("form", WEIGHTS)
def test_adapters_with_weights_are_those_of_set_adapters(form, tmp_path) -> None:
    model = diffusion_model("UNet2DConditionModel")
    weights = dict(zip(("style", "character"), WEIGHTS[form], strict=True))
    pipe = pipeline("sd", diffusion_model("UNet2DConditionModel"))
    adapted = trained(model, LoRA(r=2, alpha=3.0, target="attn+conv"))
    for name, target in (("style", "attn+conv"), ("character", "to_q,conv1")):
        if name == "character":
            adapted.add(name, LoRA(r=3, target=target), 1)
            for index, tensor in enumerate(adapted.trained().values()):
                shift(tensor, 40 + index, 0.2)
        diffusers.save({"unet": adapted}, tmp_path / name)
        pipe.load_lora_weights(tmp_path / name, adapter_name=name)
    pipe.unet.set_adapters(list(weights), list(weights.values()))
    expected = image(pipe)
    base = {key: tensor.clone() for key, tensor in model.state_dict().items() if "adapter" not in key}
    own = dict(zip(("default", "character"), WEIGHTS[form], strict=True))
    own = {n: diffusers.block_weights(adapted, n, w) if isinstance(w, dict) else w for n, w in own.items()}
    assert adapted.combine(own, "both") == 0
    assert (image(pipeline("sd", model)) - expected).abs().max() < 1e-5
    adapted.merge()  # fused
    assert (image(pipeline("sd", model)) - expected).abs().max() < 1e-5
    adapted.unmerge()
    for name in ("character", "both", "default"):  # in any order
        adapted.switch(name)
        adapted.merge()
        adapted.unmerge()
    now = {key: tensor for key, tensor in model.state_dict().items() if key in base}
    assert all(torch.equal(now[key], tensor) for key, tensor in base.items())


def test_weights_of_no_block_are_said() -> None:
    adapted = trained(diffusion_model("UNet2DConditionModel"), LoRA(r=2, target="attn"))
    for nested, message in (
        ({"left": 1.0}, "not by 'left'"),
        ({"down": {"block_0": "much"}}, "'much' is no weight"),
        ({"up": {"block_0": 0.5}}, "no block_0 with attention; there are 1"),
        ({"up": {"block_1": [0.5, 1.0, 2.0]}}, "2 attentions, and 3 weights"),
    ):
        with pytest.raises(VariantError, match=message):
            diffusers.block_weights(adapted, "default", nested)
    with pytest.raises(VariantError, match="'no_such', which weighs 'default', is of none of its sites"):
        adapted.combine({"default": {"no_such": 1.0}}, "new")
