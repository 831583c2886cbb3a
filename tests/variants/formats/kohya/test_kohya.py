"""kohya's files: written by hand and read, loaded in diffusers' pipelines, and back bit for bit."""

from __future__ import annotations

import hashlib
import json
import logging
import re

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers", reason="needs the extra diffusion")

from tests.support.diffusion_models import diffusion_model, image, pipeline, same_file, text_encoder, trained
from variants import DoRA, LoRA, VariantError, formats
from variants.formats import kohya
from variants.formats.kohya.names import places
from variants.methods.loha import LoHa

UNET = "UNet2DConditionModel"
BLOCK = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"
CONV, LINEAR = "lora_unet_down_blocks_0_resnets_0_conv1", f"{BLOCK}_attn1_to_q"
PLACE = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"


@pytest.fixture(autouse=True)
def quiet():
    """diffusers says of each model that a file has nothing for it."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)


def update(adapted, path: str) -> torch.Tensor:
    """ΔW of a map, of its weight's shape."""
    layer = adapted.adapter.layers[path]
    return layer.delta_weight().detach().view_as(adapted.model.get_submodule(path).weight)


def test_a_file_written_by_hand(tmp_path) -> None:
    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    tensors = {
        f"{BLOCK}_attn1_to_q.lora_down.weight": draw(4, 8),
        f"{BLOCK}_attn1_to_q.lora_up.weight": draw(8, 4),
        f"{BLOCK}_ff_net_2.lora_down.weight": draw(4, 32),
        f"{BLOCK}_ff_net_2.lora_up.weight": draw(8, 4),
        f"{CONV}.lora_down.weight": draw(4, 8, 3, 3),
        f"{CONV}.lora_up.weight": draw(8, 4, 1, 1),
        f"{TEXT}.lora_down.weight": draw(2, 32),
        f"{TEXT}.lora_up.weight": draw(37, 2),
    }
    tensors |= {f"{name}.alpha": torch.tensor(1.0) for name in {key.partition(".")[0] for key in tensors}}
    file = tmp_path / "style.safetensors"
    save_file(tensors, file)
    pipe = pipeline("sd", diffusion_model(UNET), text_encoder())
    pipe.load_lora_weights(tmp_path, weight_name=file.name)
    unet, text = formats.load(diffusion_model(UNET), file), formats.load(text_encoder(), file)
    assert (image(pipeline("sd", unet.model, text.model)) - image(pipe)).abs().max() < 1e-5
    key = f"{BLOCK}_attn1_to_q"
    expected = tensors[f"{key}.lora_up.weight"] @ tensors[f"{key}.lora_down.weight"] / 4
    place = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    assert torch.allclose(update(unet, place), expected, atol=1e-6)
    up, down = tensors[f"{CONV}.lora_up.weight"], tensors[f"{CONV}.lora_down.weight"]
    expected = torch.einsum("or,rckl->ockl", up[:, :, 0, 0], down) / 4
    assert torch.allclose(update(unet, "down_blocks.0.resnets.0.conv1"), expected, atol=1e-5)
    expected = tensors[f"{TEXT}.lora_up.weight"] @ tensors[f"{TEXT}.lora_down.weight"] / 2
    assert torch.allclose(update(text, "encoder.layers.0.mlp.fc1"), expected, atol=1e-6)
    for alpha in ({}, {f"{BLOCK}_attn1_to_q.alpha": torch.tensor(0.0)}):  # then it is the rank
        save_file({key: t for key, t in tensors.items() if not key.endswith("alpha")} | alpha, file)
        expected = tensors[f"{key}.lora_up.weight"] @ tensors[f"{key}.lora_down.weight"]
        assert torch.allclose(update(formats.load(diffusion_model(UNET), file), place), expected, atol=1e-5)


@pytest.mark.parametrize(("variant", "alike"), [(LoRA, True), (LoRA, False), (DoRA, False)])
def test_there_and_back_bit_for_bit(variant, alike, tmp_path) -> None:
    model, encoder = diffusion_model(UNET), text_encoder()
    # diffusers loses the α of single maps, and wants DoRA's scales in another shape than LyCORIS writes them
    single = {} if alike else {"*to_k": {"r": 2, "alpha": 0.3}}
    of_unet = trained(model, variant(r=3, alpha=5.0, target="attn+conv,conv_in", per_layer=single))
    of_text = trained(encoder, variant(target="attn", r=2, alpha=3.0))
    expected = image(pipeline("sd", model, encoder))
    file = kohya.save({"unet": of_unet, "text_encoder": of_text}, tmp_path / "a.safetensors")
    if alike:
        pipe = pipeline("sd", diffusion_model(UNET), text_encoder())
        pipe.load_lora_weights(tmp_path, weight_name=file.name)
        assert (image(pipe) - expected).abs().max() < 1e-5
    unet, text = formats.load(diffusion_model(UNET), file), formats.load(text_encoder(), file)
    assert torch.equal(image(pipeline("sd", unet.model, text.model)), expected)
    again = kohya.save({"unet": unet, "text_encoder": text}, tmp_path / "b.safetensors")
    assert same_file(again, file)
    with safe_open(file, "pt") as opened:
        header = opened.metadata()
    assert header["ss_network_module"] == ("networks.lora" if variant is LoRA else "lycoris.kohya")
    assert (header["ss_network_dim"], header["ss_network_alpha"]) == ("3", "5")
    assert json.loads(header["ss_network_args"])["conv_dim"] == "3"
    content = file.read_bytes()
    tensors_alone = content[8 + int.from_bytes(content[:8], "little") :]
    assert header["sshs_model_hash"] == hashlib.sha256(tensors_alone).hexdigest()


def test_flux_has_queries_keys_and_values_as_one_map(tmp_path) -> None:
    name, target = "FluxTransformer2DModel", "transformer_blocks.*.attn.*,ff.net.*,ff.net.*.proj"
    model = diffusion_model(name)
    adapted = trained(model, LoRA(r=2, alpha=3.0, target=target, per_layer={"*to_v": {"r": 1, "alpha": 4.0}}))
    expected = image(pipeline("flux", model))
    file = kohya.save({"transformer": adapted}, tmp_path / "a.safetensors")
    tensors = load_file(file)
    assert tensors["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"].shape == (5, 32)
    pipe = pipeline("flux", diffusion_model(name))
    pipe.load_lora_weights(tmp_path, weight_name=file.name)
    assert (image(pipe) - expected).abs().max() < 1e-5
    loaded = formats.load(diffusion_model(name), file)
    assert (image(pipeline("flux", loaded.model)) - expected).abs().max() < 1e-5
    again = kohya.save({"transformer": loaded}, tmp_path / "b.safetensors")
    found = load_file(again)
    assert found.keys() == tensors.keys() and all(torch.equal(found[key], tensors[key]) for key in found)
    single = trained(
        diffusion_model(name), LoRA(r=2, target="single_transformer_blocks.*.attn.to_q,proj_mlp,*blocks.0.proj_out")
    )
    loaded = formats.load(diffusion_model(name), kohya.save({"transformer": single}, tmp_path / "c.safetensors"))
    pictures = [image(pipeline("flux", own.model)) for own in (single, loaded)]
    assert (pictures[0] - pictures[1]).abs().max() < 1e-5


class Checkpoint(dict):
    """One of Stability's, of which everything that is not there is zero."""

    def __missing__(self, key: str) -> torch.Tensor:
        return torch.zeros(12)

    def pop(self, key: str, *_) -> torch.Tensor:
        return super().pop(key, self[key])


def test_sd3_has_them_so_too(tmp_path) -> None:
    """What the file adds to Stability's own weights is, by diffusers' conversion of these, what the adapter adds."""
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    name, target = "SD3Transformer2DModel", "attn,added,up,down,*_blocks.0.norm1*.linear"
    adapted = trained(diffusion_model(name), LoRA(r=2, alpha=3.0, target=target))
    file = kohya.save({"transformer": adapted}, tmp_path / "a.safetensors")
    tensors, original = load_file(file), Checkpoint()
    words = re.compile(r"lora_unet_joint_blocks_(\d+)_(x_block|context_block)_(attn|mlp|adaLN_modulation)_(\w+)")
    for place in {key.partition(".")[0] for key in tensors}:
        up, down = tensors[f"{place}.lora_up.weight"], tensors[f"{place}.lora_down.weight"]
        key = ".".join(words.fullmatch(place).groups())
        original[f"joint_blocks.{key}.weight"] = up @ down * tensors[f"{place}.alpha"] / len(down)
    converted = convert_sd3_transformer_checkpoint_to_diffusers(original)
    for path in adapted.adapter.layers:
        assert torch.allclose(converted[f"{path}.weight"], update(adapted, path), atol=1e-5), path
    loaded = formats.load(diffusion_model(name), file)
    for path in adapted.adapter.layers:
        assert torch.allclose(update(loaded, path), update(adapted, path), atol=1e-5)
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["ss_network_module"] == "networks.lora_sd3"
    turned = trained(diffusion_model(name), LoRA(r=2, target="*_blocks.1.norm1_context.linear"))
    with pytest.raises(VariantError, match="no name for transformer_blocks.1.norm1_context.linear"):
        kohya.save({"transformer": turned}, file)  # Stability's has its halves the other way round


LOHA = {"hada_w1_a": (8, 2), "hada_w1_b": (2, 8), "hada_w2_a": (8, 2), "hada_w2_b": (2, 8)}


def given(tmp_path, name: str, shapes: dict[str, tuple[int, ...]], alpha: float = 3.0):
    """Tensors of one map as a file, and what the file loads as."""
    tensors = {key: torch.randn(*shape) for key, shape in shapes.items()} | {"alpha": torch.tensor(alpha)}
    save_file({f"{name}.{key}": tensor for key, tensor in tensors.items()}, tmp_path / "a.safetensors")
    adapted = formats.load(diffusion_model(UNET), tmp_path / "a.safetensors")
    (path,) = adapted.adapter.layers
    return tensors, update(adapted, path)


def test_loha_and_lokr_come_as_the_lora_that_computes_the_same(tmp_path) -> None:
    torch.manual_seed(0)
    t, delta = given(tmp_path, LINEAR, LOHA)
    expected = (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"]) * 3 / 2
    assert torch.allclose(delta, expected, atol=1e-4)
    wide = LOHA | {"hada_w1_a": (8, 4), "hada_w1_b": (4, 8)}  # a rank above the map's
    t, delta = given(tmp_path, LINEAR, wide | {"hada_w2_a": (8, 4), "hada_w2_b": (4, 8)})
    expected = (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"]) * 3 / 4
    assert torch.allclose(delta, expected, atol=1e-4)
    t, delta = given(tmp_path, CONV, LOHA | {"hada_w1_b": (2, 72), "hada_w2_b": (2, 72)})
    expected = (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"]) * 3 / 2
    assert torch.allclose(delta.flatten(1), expected, atol=1e-4)
    tucker = dict.fromkeys(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), (2, 8))
    t, delta = given(tmp_path, CONV, tucker | {"hada_t1": (2, 2, 3, 3), "hada_t2": (2, 2, 3, 3)})
    halves = [torch.einsum("ijkl,jr,ip->prkl", t[f"hada_t{n}"], t[f"hada_w{n}_b"], t[f"hada_w{n}_a"]) for n in (1, 2)]
    assert torch.allclose(delta, halves[0] * halves[1] * 3 / 2, atol=1e-4)

    t, delta = given(tmp_path, LINEAR, {"lokr_w1": (2, 4), "lokr_w2": (4, 2)})
    assert torch.allclose(delta, torch.kron(t["lokr_w1"], t["lokr_w2"]), atol=1e-4)  # no factor: no scale
    t, delta = given(tmp_path, LINEAR, {"lokr_w1": (2, 2), "lokr_w2_a": (4, 1), "lokr_w2_b": (1, 4)})
    assert torch.allclose(delta, 3 * torch.kron(t["lokr_w1"], t["lokr_w2_a"] @ t["lokr_w2_b"]), atol=1e-4)
    t, delta = given(tmp_path, CONV, {"lokr_w1": (2, 2), "lokr_w2": (4, 4, 3, 3)})
    expected = torch.stack([torch.kron(t["lokr_w1"], t["lokr_w2"][..., i, j]) for i in range(3) for j in range(3)], -1)
    assert torch.allclose(delta.flatten(2), expected, atol=1e-4)
    t, delta = given(
        tmp_path,
        CONV,
        {"lora_down.weight": (2, 8, 1, 1), "lora_mid.weight": (2, 2, 3, 3), "lora_up.weight": (8, 2, 1, 1)},
    )
    x = torch.randn(1, 8, 5, 5)
    expected = F.conv2d(F.conv2d(F.conv2d(x, t["lora_down.weight"]), t["lora_mid.weight"]), t["lora_up.weight"]) * 3 / 2
    assert torch.allclose(F.conv2d(x, delta), expected, atol=1e-4)


def test_loha_alone_is_loha(tmp_path) -> None:
    adapted = trained(diffusion_model(UNET), LoHa(r=2, alpha=3.0, target="to_q,conv1", per_layer={"*conv1": {"r": 3}}))
    file = kohya.save({"unet": adapted}, tmp_path / "a.safetensors")
    loaded = formats.load(diffusion_model(UNET), file)
    assert isinstance(loaded.variant, LoHa)
    assert all(torch.equal(loaded.state_dict()[key], tensor) for key, tensor in adapted.state_dict().items())
    assert same_file(file, kohya.save({"unet": loaded}, tmp_path / "b.safetensors"))
    with safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()["ss_network_args"])["algo"] == "loha"
    pair = {f"{CONV}.lora_down.weight": torch.ones(2, 8, 3, 3), f"{CONV}.lora_up.weight": torch.ones(8, 2, 1, 1)}
    tensors = {key: tensor for key, tensor in load_file(file).items() if key.startswith(LINEAR)}
    save_file(tensors | pair, file)  # beside another method it is LoRA
    mixed, path = formats.load(diffusion_model(UNET), file), PLACE
    assert type(mixed.variant) is LoRA and torch.allclose(update(mixed, path), update(adapted, path), atol=1e-5)


def test_words_of_the_first_code_are_those_that_diffusers_maps(tmp_path) -> None:
    """diffusers turns Stability's names into its own; so does the table here, and both find the same maps."""
    from diffusers.loaders.lora_conversion_utils import (
        _convert_non_diffusers_lora_to_diffusers,
        _maybe_map_sgm_blocks_to_diffusers,
    )
    from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft

    model = diffusion_model(UNET)
    words = ("input_blocks", "middle_block", "output_blocks")
    named = {name: place[0] for name, place in places(model, "unet").items() if any(word in name for word in words)}
    # SDXL has attention in every block with an upsampler
    stability = {name: path for name, path in named.items() if path != "up_blocks.0.upsamplers.0.conv"}
    assert len(set(stability.values())) == len(stability) > 60
    tensors = {f"{name}.lora_{x}.weight": torch.ones(1) for name in stability for x in ("down", "up")}
    mapped = _maybe_map_sgm_blocks_to_diffusers(dict(tensors), model.config)
    found, _ = _convert_non_diffusers_lora_to_diffusers(mapped)
    found = convert_unet_state_dict_to_peft({key.removeprefix("unet."): value for key, value in found.items()})
    theirs = {key.removesuffix(".lora_A.weight") for key in found if key.endswith(".lora_A.weight")}
    assert theirs == set(stability.values())


def test_what_does_not_fit_is_said(tmp_path) -> None:
    file = tmp_path / "a.safetensors"
    pair = {f"{LINEAR}.lora_down.weight": torch.ones(2, 8), f"{LINEAR}.lora_up.weight": torch.ones(8, 2)}
    other = {"lora_unet_no_such_map.alpha": torch.tensor(1.0), "lora_te_text_model_x.alpha": torch.tensor(1.0)}
    save_file(pair | other, file)
    with pytest.warns(
        UserWarning, match="2 of 3 keys matched; not 'lora_unet_no_such_map.alpha'; 1 of text_encoder left"
    ):
        formats.load(diffusion_model(UNET), file)
    for tensors, message in (
        (other, "nothing of the file fits"),
        ({f"{LINEAR}.lora_down.weight": torch.ones(2, 8)}, "lacks lora_up.weight"),
        (pair | {f"{LINEAR}.dora_scale": torch.ones(1, 4)}, "scales of inputs"),
        (pair | {f"{LINEAR}.lokr_w1": torch.ones(1, 4)}, "no method's"),
        (pair | {f"{LINEAR}.lora_up.weight": torch.ones(9, 2)}, "9 outputs in the file and 8 in the model"),
    ):
        save_file(tensors, file)
        with pytest.raises(VariantError, match=message) as error:
            formats.load(diffusion_model(UNET), file)
        assert "\n" not in str(error.value)
    adapted = trained(diffusion_model("PixArtTransformer2DModel"), LoRA(r=2, target="attn"))
    with pytest.raises(VariantError, match="no names of PixArtTransformer2DModel's maps"):
        kohya.save({"transformer": adapted}, file)
