"""Which maps a target names, on every architecture that the package knows, and what counts as the task head."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from torch import nn

from tests.support.models import MODELS
from variants import LoRA, VariantError, attach
from variants.sites.architectures import ARCHITECTURES, head_parameters
from variants.sites.diffusion import DIFFUSION
from variants.sites.site import Site, is_conv1d, is_linear
from variants.sites.targets import PRESETS, find_sites, gated, name_target

BERT_BLOCK = {"q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value"}
BERT_BLOCK |= {"o": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense"}
LLAMA_BLOCK = {x: f"self_attn.{x}_proj" for x in "qkvo"} | {x: f"mlp.{x}_proj" for x in ("gate", "up", "down")}
BART_BLOCK = {x: f"self_attn.{x}_proj" for x in "qkv"} | {"o": "self_attn.out_proj", "up": "fc1", "down": "fc2"}
# model type -> (path of block i, role -> path of its map in the block), written down from the models' own code
BLOCKS = {
    "roberta": ("roberta.encoder.layer.{}", BERT_BLOCK),
    "bert": ("bert.encoder.layer.{}", BERT_BLOCK),
    "distilbert": (
        "distilbert.transformer.layer.{}",
        {x: f"attention.{x}_lin" for x in "qkv"} | {"o": "attention.out_lin", "up": "ffn.lin1", "down": "ffn.lin2"},
    ),
    "deberta-v2": (
        "deberta.encoder.layer.{}",
        BERT_BLOCK | {x[0]: f"attention.self.{x}_proj" for x in ("query", "key", "value")},
    ),
    "opt": (
        "model.decoder.layers.{}",
        {x: f"self_attn.{x}_proj" for x in "qkv"} | {"o": "self_attn.out_proj", "up": "fc1", "down": "fc2"},
    ),
    **{
        name: ("model.layers.{}", LLAMA_BLOCK)
        for name in ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
    },
    "xlm-roberta": ("roberta.encoder.layer.{}", BERT_BLOCK),
    "camembert": ("roberta.encoder.layer.{}", BERT_BLOCK),
    "electra": ("electra.encoder.layer.{}", BERT_BLOCK),
    "whisper": ("encoder.layers.{}", BART_BLOCK),
    "clip": (
        "vision_model.encoder.layers.{}",
        {x: f"self_attn.{x}_proj" for x in "qkv"} | {"o": "self_attn.out_proj", "up": "mlp.fc1", "down": "mlp.fc2"},
    ),
}
BESIDE = {"deberta-v2": {"attention.self.pos_key_proj", "attention.self.pos_query_proj"}}
"""Maps of a block without a role."""
OUTSIDE = {
    "electra": {"electra.embeddings_project"},
    "albert": {"albert.encoder.embedding_hidden_mapping_in", "albert.pooler"},
    "bert": {"bert.pooler.dense"},
    "modernbert": {"head.dense"},
}
"""Maps of the backbone that are in no block."""
HEADS = {
    "roberta": {"classifier.dense", "classifier.out_proj"},
    "bert": {"classifier"},
    "distilbert": {"pre_classifier", "classifier"},
    "deberta-v2": {"pooler.dense", "classifier"},
    "gpt2": {"score"},
    "opt": {"score"},
    "llama": {"score"},
    "t5": {"classification_head.dense", "classification_head.out_proj"},
    "vit": {"classifier"},
    **dict.fromkeys(("xlm-roberta", "camembert", "electra"), {"classifier.dense", "classifier.out_proj"}),
    "albert": {"classifier"},
    "deberta": {"pooler.dense", "classifier"},
    "modernbert": {"classifier"},
    **dict.fromkeys(("mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), {"score"}),
    **dict.fromkeys(("phi3", "gpt_neox", "bloom", "falcon"), {"score"}),
    **dict.fromkeys(("glm", "starcoder2", "phi", "deepseek_v3", "gptj", "gpt_neo", "gpt_bigcode", "mpt"), {"score"}),
    **dict.fromkeys(("persimmon", "smollm3", "olmo2", "stablelm"), {"score"}),
    **dict.fromkeys(("mt5", "bart"), {"classification_head.dense", "classification_head.out_proj"}),
    "whisper": {"projector", "classifier"},
    "clip": {"classifier"},
}


def paths(model: nn.Module, target: str, layers: str = "") -> list[str]:
    return [site.path for site in find_sites(model, target, layers)]


# ---- architectures --------------------------------------------------------------------------------------------


def test_every_known_architecture_is_tested() -> None:
    within = {"clip_text_model", "clip_vision_model"}  # parts of a model of two towers
    without = {"codegen", "granite", "cohere"}  # which transformers has no classifier of
    diffusion = {name for row in DIFFUSION for name in row.names}  # tests/variants/sites/test_diffusion.py
    assert set(MODELS) == set(ARCHITECTURES) - within - without - diffusion == set(HEADS)


@pytest.mark.parametrize("name", HEADS)
def test_head_is_what_the_papers_leave_out_of_their_counts(name: str) -> None:
    assert {parameter.rpartition(".")[0] for parameter in head_parameters(MODELS[name]())} == HEADS[name]


@pytest.mark.parametrize("name", BLOCKS)
def test_roles_and_presets(name: str) -> None:
    model, (block, roles) = MODELS[name](), BLOCKS[name]
    for role, path in roles.items():
        assert paths(model, role) == [f"{block.format(i)}.{path}" for i in (0, 1)]

    def of(*names: str) -> set[str]:
        return {f"{block.format(i)}.{roles[x]}" for i in (0, 1) for x in names}

    assert set(paths(model, "attn-qv")) == of("q", "v")
    assert set(paths(model, "attn")) == of("q", "k", "v", "o")
    beside = {f"{block.format(i)}.{path}" for i in (0, 1) for path in BESIDE.get(name, ())}
    assert set(paths(model, "all-linear")) == of(*roles) | beside


def test_gpt2_q_and_v_are_slices_of_the_fused_map() -> None:
    model = MODELS["gpt2"]()
    sites = find_sites(model, "attn-qv")
    assert [site.path for site in sites] == [f"transformer.h.{i}.attn.c_attn.{x}" for i in (0, 1) for x in "qv"]
    assert [(s.start, s.stop) for s in sites[:2]] == [(0, 16), (32, 48)]
    assert all(s.in_features == s.out_features == 16 and s.total_out == 48 and not s.is_whole for s in sites)
    fused = model.transformer.h[0].attn.c_attn
    assert is_conv1d(fused) and (sites[1].weight() == fused.weight.t()[32:48]).all()
    assert (sites[1].bias() == fused.bias[32:48]).all()
    assert {s.module_path.rpartition("h.")[2] for s in find_sites(model, "all-linear") if s.is_whole} == {
        f"{i}.{x}" for i in (0, 1) for x in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }, "all-linear takes the fused map whole"


def test_t5_has_self_and_cross_attention() -> None:
    model = MODELS["t5"]()
    found = paths(model, "q,v")
    kinds = [re.search(r"(encoder|decoder)\.block\.(\d)\..*\.(\w+)\.([qv])$", path).groups() for path in found]
    expected = [("encoder", "SelfAttention"), ("decoder", "SelfAttention"), ("decoder", "EncDecAttention")]
    assert sorted(kinds) == sorted((s, str(i), a, x) for s, a in expected for i in (0, 1) for x in "qv")
    assert len(paths(model, "attn")) == 2 * len(found)
    assert {path.rpartition(".")[2] for path in paths(model, "up,down")} == {"wi", "wo"}


def test_t5_gated_has_two_maps_up() -> None:
    model = MODELS["t5"](feed_forward_proj="gated-gelu")
    assert {path.rpartition(".")[2] for path in paths(model, "up")} == {"wi_0", "wi_1"}


@pytest.mark.parametrize(("name", "blocks"), [("llama", 2), ("phi3", 0), ("bert", 0), ("gpt2", 0)])
def test_gates_and_what_they_gate(name: str, blocks: int) -> None:
    """Pairs of maps of one input; one fused map has nothing to be brought together with, and others have no gate."""
    model = MODELS[name]()
    names = {id(module): path for path, module in model.named_modules()}
    groups = [[names[id(module)] for module in group] for group in gated(model)]
    assert groups == [[f"model.layers.{i}.mlp.{role}_proj" for role in ("gate", "up")] for i in range(blocks)]


def test_vit_has_each_role_once_in_each_block() -> None:
    model = MODELS["vit"]()
    for role in ARCHITECTURES["vit"].roles:
        assert len(paths(model, role)) == 2
    assert len(paths(model, "attn-qv")) == 4 and len(paths(model, "all-linear")) == 12


# released DeBERTas share the projections of positions with those of tokens
@pytest.mark.parametrize(("name", "changes"), [*((n, {}) for n in HEADS), ("deberta-v2", {"share_att_key": True})])
def test_all_linear_is_every_map_of_the_backbone(name: str, changes: dict) -> None:
    model = MODELS[name](**changes)
    maps = {path for path, m in model.named_modules() if is_linear(m) and m.weight.ndim == 2}  # no convolutions
    backbone = maps - HEADS[name] - OUTSIDE.get(name, set())
    assert set(paths(model, "all-linear")) == backbone


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", [*PRESETS, "q", "up,down"])
def test_name_target_finds_the_same_places(name: str, target: str) -> None:
    model = MODELS[name]()
    sites = find_sites(model, target)
    for explicit in (False, True):
        again = find_sites(model, name_target(model, sites, explicit))
        assert [site.span for site in again] == [site.span for site in sites]


# ---- names, globs, slices, layers -----------------------------------------------------------------------------


def plain() -> nn.Module:
    """A model of no known architecture: two blocks with maps a, b and wide, an embedding tied to the output."""
    model = nn.Module()
    model.embed = nn.Embedding(10, 4)
    model.blocks = nn.ModuleList()
    for _ in range(3):
        block = nn.Module()
        block.a, block.b, block.wide, block.norm = nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(4, 12), nn.LayerNorm(4)
        model.blocks.append(block)
    model.out = nn.Linear(4, 10, bias=False)
    model.out.weight = model.embed.weight
    return model


@pytest.mark.parametrize(
    ("target", "layers", "expected"),
    [
        ("a", "", ["blocks.0.a", "blocks.1.a", "blocks.2.a"]),
        ("blocks.1.a", "", ["blocks.1.a"]),
        ("1.?", "", ["blocks.1.a", "blocks.1.b"]),
        ("blocks.*.a, 2.b", "", ["blocks.0.a", "blocks.1.a", "blocks.2.a", "blocks.2.b"]),
        ("b,a", "0", ["blocks.0.a", "blocks.0.b"]),
        ("a", "0-1", ["blocks.0.a", "blocks.1.a"]),
        ("a", "0, 2", ["blocks.0.a", "blocks.2.a"]),
        ("a", "1-2", ["blocks.1.a", "blocks.2.a"]),
        ("a,a,blocks.0.a", "0", ["blocks.0.a"]),
        ("*", "1", ["blocks.1.a", "blocks.1.b", "blocks.1.wide"]),
        ("wide[0:4],wide[8:12]", "1", ["blocks.1.wide.0:4", "blocks.1.wide.8:12"]),
        ("wide[4:8],wide[0:4]", "1", ["blocks.1.wide.0:4", "blocks.1.wide.4:8"]),
    ],
)
def test_names_globs_slices_and_layers(target: str, layers: str, expected: list[str]) -> None:
    assert paths(plain(), target, layers) == expected


def test_a_tied_output_embedding_is_no_target() -> None:
    assert len(paths(plain(), "*")) == 9
    with pytest.raises(VariantError, match="matches no linear map"):
        find_sites(plain(), "out")


@pytest.mark.parametrize(
    ("target", "layers", "says"),
    [
        ("wdie", "", "target='wdie' matches no linear map; the nearest are wide"),
        ("norm", "", "matches no linear map"),
        ("a,nothing_like_it", "", "'nothing_like_it' matches no linear map; the nearest are a, b, wide"),
        ("attn-qv", "", "target='attn-qv' is known for bert, .*; name the maps instead"),
        ("a", "5", "layers='5' leaves none of the blocks that target='a' matches"),
        ("a", "1..2", "layers='1..2' is not a list of numbers and ranges such as 0-5,11"),
        ("wide[0:13]", "", r"\[0:13\] is not within the 12 outputs of blocks.0.wide"),
        ("wide[4:4]", "", "is not within"),
        ("wide[x]", "", r"written name\[start:stop\], not \[x\]"),
        ("wide[0:4],wide[3:6]", "", "adapts part of blocks.0.wide twice: blocks.0.wide.0:4 and blocks.0.wide.3:6"),
        ("wide,wide[3:6]", "", "adapts part of blocks.0.wide twice"),
    ],
)
def test_errors_say_what_and_what_instead(target: str, layers: str, says: str) -> None:
    with pytest.raises(VariantError, match=says) as error:
        find_sites(plain(), target, layers)
    assert "\n" not in str(error.value)


def test_nearest_names_know_roles_and_presets() -> None:
    with pytest.raises(VariantError, match="the nearest are query"):
        find_sites(MODELS["roberta"](), "qeury")
    with pytest.raises(VariantError, match="attn-qv"):
        find_sites(MODELS["roberta"](), "atn-qv")
    with pytest.raises(VariantError, match="none: the model has no linear map"):
        find_sites(nn.LayerNorm(3), "x")


def test_an_adapted_model_has_the_same_sites() -> None:
    """The adapters' own modules are no targets for the next adapter."""
    model = plain()
    before = paths(model, "*")
    attach(model, LoRA(r=2, target="a,b"), head=[])
    assert paths(model, "*") == before


def test_the_head_is_no_target() -> None:
    model = MODELS["roberta"]()
    assert paths(model, "*.dense") == paths(model, "o,up,down"), "classifier.dense is the head's"
    with pytest.raises(VariantError, match="matches no linear map"):
        find_sites(model, "out_proj")


def test_a_tied_language_model_head_is_the_backbones() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tied = GPT2LMHeadModel(GPT2Config(vocab_size=10, n_embd=8, n_layer=1, n_head=1, n_positions=4))
    assert tied.lm_head.weight is tied.transformer.wte.weight
    assert head_parameters(tied) == []
    assert paths(tied, "all-linear") == [
        f"transformer.h.0.{x}" for x in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]


def test_head_and_backbone_of_any_module() -> None:
    """A module with ``base_model`` says which part was pretrained; without it there is no head."""
    model = nn.Module()
    model.base_model, model.classifier = nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 3)
    assert head_parameters(model) == ["classifier.weight", "classifier.bias"]
    assert paths(model, "*") == ["base_model.0"]
    assert head_parameters(plain()) == []


def test_model_type_of_a_model_without_config_is_unknown() -> None:
    model = plain()
    model.config = SimpleNamespace()
    with pytest.raises(VariantError, match="is known for"):
        find_sites(model, "all-linear".replace("all-linear", "attn"))


def test_site_writes_a_slice_and_nothing_else() -> None:
    module = plain().blocks[0].wide
    site, before = Site(module, "x", "x", 4, 8), module.weight.detach().clone()
    site.write(site.weight() * 0, site.bias() * 0 + 7)
    assert not module.weight[4:8].any() and (module.bias[4:8] == 7).all()
    assert (module.weight[:4] == before[:4]).all() and (module.weight[8:] == before[8:]).all()
    assert not (module.bias[8:] == 7).any()
