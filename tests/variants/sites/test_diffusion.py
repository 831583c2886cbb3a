"""Targets on diffusion models: tiny ones of diffusers' own classes, made from configurations."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers", reason="needs the extra diffusion")

from tests.support.diffusion_models import CONFIGS, diffusion_model, text_encoder  # noqa: E402
from variants import LoRA, VariantError, attach
from variants.registry import resolve
from variants.sites.architectures import architecture_of, head_parameters, model_type
from variants.sites.targets import find_sites, left_out, siblings

ATTENTION = {"to_q", "to_k", "to_v", "to_out.0"}
ADDED = {"add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"}
FF = {"net.0.proj", "net.2"}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_family_is_known_by_its_class(name) -> None:
    model = diffusion_model(name)
    assert model_type(model) == name and architecture_of(model).maps
    assert head_parameters(model) == []
    attention = [site.path for site in find_sites(model, "attn")]
    assert {path for path, _ in model.named_modules() if path.endswith(tuple(ATTENTION | ADDED))} == set(attention)
    assert {site.path for site in find_sites(model, "up,down")} >= {
        path for path, _ in model.named_modules() if path.endswith(tuple(FF))
    }
    assert not any(site.window for site in find_sites(model, "all-linear"))
    everything = {path for path, module in model.named_modules() if type(module).__name__ == "Linear"}
    assert everything == {site.path for site in find_sites(model, "all-linear")} | {
        path for path in left_out(model, "all-linear") if path in everything
    }


def test_convolutions_of_a_unet() -> None:
    model = diffusion_model("UNet2DConditionModel")
    convs = {site.path for site in find_sites(model, "conv")}
    found = {path for path, module in model.named_modules() if type(module).__name__ == "Conv2d"}
    assert found - convs == {
        "conv_in",
        "conv_out",
        *(path for path in found if path.endswith(("proj_in", "proj_out"))),  # the transformers'
    }
    assert {site.path for site in find_sites(model, "attn+conv")} == convs | {
        site.path for site in find_sites(model, "attn")
    }
    assert len(find_sites(model, "conv_in,proj_in")) == 1 + 4
    assert "convolution" in left_out(model, "all-linear")["conv_in"]


def test_blocks_of_a_unet_go_by_names() -> None:
    """A number names one on the way down, one on the way up, and a part of the middle."""
    model = diffusion_model("UNet2DConditionModel")
    with pytest.raises(VariantError, match="numbers its down_blocks, mid_block, up_blocks each for itself") as error:
        find_sites(model, "attn", layers="0")
    example = str(error.value).rpartition("such as '")[2].rstrip("'")
    assert {site.path.partition(".attn")[0] for site in find_sites(model, example)} == {
        f"up_blocks.1.attentions.{number}.transformer_blocks.0" for number in (0, 1)
    }
    for method in ("adapter_l", "ft_top2"):  # what they would change are convolutions' outputs, or the middle
        with pytest.raises(VariantError, match="no one row of blocks"):
            attach(model, resolve(method)())


def test_flux_has_a_map_that_ends_attention_and_feed_forward() -> None:
    model = diffusion_model("FluxTransformer2DModel")
    down = {site.path for site in find_sites(model, "down")}
    assert "single_transformer_blocks.0.proj_out" in down and "proj_out" not in down
    assert left_out(model, "all-linear")["proj_out"]


def test_the_text_stream_can_be_left_alone() -> None:
    model = diffusion_model("SD3Transformer2DModel")
    image = {site.path.partition("attn.")[2] for site in find_sites(model, "q,k,v,o")}
    text = {site.path.partition("attn.")[2] for site in find_sites(model, "added")}
    assert (image, text) == (ATTENTION, ADDED)


def test_maps_that_read_one_tensor_are_those_of_self_attention() -> None:
    for name in ("UNet2DConditionModel", "PixArtTransformer2DModel", "SD3Transformer2DModel"):
        model = diffusion_model(name)
        names = {module: path for path, module in model.named_modules()}
        groups = [[names[module] for module in group] for group in siblings(model)]
        assert groups and not any("attn2" in path or "add_" in path for group in groups for path in group)


@pytest.mark.parametrize("name", ["CLIPTextModel", "CLIPTextModelWithProjection"])
def test_text_encoders_of_clip(name) -> None:
    model = text_encoder(name)
    found = {site.path.rpartition(".")[2] for site in find_sites(model, "attn")}
    assert found == {"q_proj", "k_proj", "v_proj", "out_proj"}
    adapted = attach(model, LoRA(r=2, target="all-linear"))
    assert not adapted.head and not any("text_projection" in layer.site.path for layer in adapted.layers)
