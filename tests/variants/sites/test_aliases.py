"""Families under another name: the same targets find the same maps (peft #2877)."""

from __future__ import annotations

import re

import pytest
import torch
import transformers
from torch import nn

from tests.support.causal_models import tiny
from variants import LoRA, VariantError, attach
from variants.sites.aliases import ALIASES
from variants.sites.architectures import ARCHITECTURES, architecture_of
from variants.sites.blocks import blocks
from variants.sites.kinds import is_linear
from variants.sites.ranges import block_number
from variants.sites.targets import find_sites, left_out

QUICK = ("mixtral", "qwen2_moe", "cohere", "mbart", "dinov2", "siglip", "openai-gpt", "roformer", "umt5")
WITHOUT = {"gate": ("apertus", "arcee", "jais2", "nemotron", "apertus1p5_text")}
EXPERTS = ("mixtral", "qwen3_moe", "olmoe", "flex_olmo", "phimoe", "granitemoe", "gpt_oss", "minimax_m2")
EXPERTS += ("cohere2_moe", "granitemoeshared", "granitemoe_swa", "mellum")
CAUSAL = ("gemma3n_text", "dots1", "hunyuan_v1_moe")  # whose default sizes do not suit each other
LEFT = {  # maps that all-linear takes and no role names
    r"self_attn\.(?:gate_proj|g_proj|dt_proj)$": ("afmoe", "beam", "dory", "doge", "laguna"),
    r"(?:_a_proj|_with_mqa)$": tuple(name for name, family in ALIASES.items() if family == "deepseek_v3"),
    r"per_layer_|altup|laurel": ("gemma3n_text", "gemma4_text"),
}
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}


def built(name: str) -> nn.Module:
    """The backbone of a model type with two layers, on the meta device."""
    if name in CAUSAL:
        return tiny(name)
    grouped = {} if name not in ("ministral", "hunyuan_v1_dense", "nemotron") else SMALL
    config = transformers.CONFIG_MAPPING[name](**grouped)
    for option in ("num_hidden_layers", "encoder_layers", "decoder_layers", "num_layers", "n_layer"):
        if getattr(config, option, None):
            setattr(config, option, 2)
    for part in ("text_config", "vision_config"):
        if hasattr(config, part):
            getattr(config, part).num_hidden_layers = 2
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:2]
    with torch.device("meta"):
        return transformers.AutoModel.from_config(config)


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ALIASES])
def test_every_map_of_a_block_has_its_role(name: str) -> None:
    model, row = built(name), ARCHITECTURES[ALIASES[name]]
    assert architecture_of(model).roles == row.roles and not architecture_of(model).takes_prefix
    found: set[str] = set()
    for role in row.roles:
        if name in WITHOUT.get(role, ()) or (name in EXPERTS and role in ("gate", "up", "down")):
            with pytest.raises(VariantError, match="matches no linear map"):
                find_sites(model, role)
        else:
            sites = find_sites(model, role)
            assert {block_number(site.path) for site in sites} >= {1}, role
            assert all(site.role == role and site.block == block_number(site.path) for site in sites)
            assert {site.is_transposed for site in sites} == {architecture_of(model).transposed}, role
            found |= {site.module_path for site in sites}
    inside = {path for paths in blocks(model).values() for path in (site.module_path for site in paths)}
    left = [pattern for pattern, names in LEFT.items() if name in names]
    assert {path for path in inside - found if not any(re.search(pattern, path) for pattern in left)} == set()


def test_a_name_is_in_one_table() -> None:
    assert not set(ALIASES) & set(ARCHITECTURES) and set(ALIASES.values()) <= set(ARCHITECTURES)


def causal(name: str, **options) -> nn.Module:
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "intermediate_size": 24, "pad_token_id": 0}
    config = transformers.CONFIG_MAPPING[name](**sizes | options)
    return transformers.AutoModelForCausalLM.from_config(config)


MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 12}


@pytest.mark.parametrize(("name", "options"), [("mixtral", {"num_local_experts": 4}), ("qwen2_moe", MOE)])
def test_experts_in_one_parameter_are_named_and_left_out(name, options) -> None:
    """peft #2527, #3016: neither adapted by guess nor passed over."""
    with pytest.raises(VariantError, match=r"experts\.gate_up_proj is a 3D parameter .* by the target experts alone"):
        attach(causal(name, **options), LoRA(target="gate_up_proj"))
    model = causal(name, **options)
    maps = {site.path for site in find_sites(model, "all-linear")}
    shared = {"shared_expert.gate_proj", "shared_expert.up_proj", "shared_expert.down_proj"}
    inside = {f"self_attn.{x}_proj" for x in "qkvo"} | ({f"mlp.{x}" for x in shared} if name == "qwen2_moe" else set())
    assert maps == {f"model.layers.{i}.{path}" for i in (0, 1) for path in inside}
    said = left_out(model, "all-linear")
    assert said["lm_head"] == "is the output embedding"
    assert "all experts" in said["model.layers.1.mlp.experts.down_proj"]
    if name == "qwen2_moe":
        assert "routes" in said["model.layers.0.mlp.shared_expert_gate"]
        assert any("experts" in why for why in left_out(model, "up").values())
        attach(model, LoRA(r=1, target="shared_expert_gate"))
    assert all(is_linear(model.get_submodule(path)) for path in maps)
