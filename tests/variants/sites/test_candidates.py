"""Which maps can be adapted, which cannot, and which all-linear leaves out and says so."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch
import transformers
from torch import nn

from tests.support.models import MODELS, inputs
from variants import AdaLoRA, DoRA, LoRA, VariantError, VeRA, attach
from variants.sites.blocks import block_outputs, layer_norms
from variants.sites.ranges import chosen_blocks, ranges
from variants.sites.targets import find_sites, left_out

METHODS = (
    LoRA(r=2, target="*"),
    DoRA(r=2, target="*"),
    VeRA(r=3, target="*"),
    AdaLoRA(init_r=2, target_r=1, target="*"),
)


def paths(model: nn.Module, target: str) -> list[str]:
    return [site.path for site in find_sites(model, target)]


# ---- maps whose weight another module reads ----------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, attention=nn.MultiheadAttention) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attn, self.out_proj = attention(16, 4, batch_first=True), nn.Linear(16, 3)

    def forward(self, x):
        return self.out_proj(self.attn(x, x, x, need_weights=False)[0])


class OwnAttention(nn.MultiheadAttention):
    """It calls its out_proj."""

    def forward(self, x, *_, **__):
        return self.out_proj(x), None


@pytest.mark.parametrize("variant", METHODS, ids=lambda v: v.name)
def test_multihead_attention_reads_its_output_map_itself(variant) -> None:
    """peft #761, LoRA-Torch #3: refused where it is named, left out of globs, and every layer that is left trains."""
    with pytest.raises(VariantError, match=r"attn\.out_proj, which is never called, as MultiheadAttention reads"):
        attach(Attention(), type(variant)(target="out_proj"), head=[])
    with pytest.raises(
        VariantError, match=r"matches no linear map that can be adapted: attn\.out_proj is never called"
    ):
        attach(Attention(), type(variant)(target="attn.*"), head=[])
    adapted = attach(Attention(), dataclasses.replace(variant, target="*"), head=[])
    assert list(adapted.adapter.layers) == ["out_proj"]
    assert "MultiheadAttention" in adapted.left_out["attn.out_proj"]
    adapted.model(torch.randn(2, 5, 16)).sum().backward()
    assert all(p.grad is not None for p in adapted.trained().values())


def test_an_attention_with_a_forward_of_its_own_may_call_it() -> None:
    assert paths(Attention(OwnAttention), "*") == ["attn.out_proj", "out_proj"]


def test_relatives_in_torch() -> None:
    """The attention inside nn.TransformerEncoderLayer and nn.TransformerDecoderLayer, of which all else is called."""
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 24, batch_first=True), 2)
    assert paths(decoder, "*") == [f"layers.{i}.linear{k}" for i in (0, 1) for k in (1, 2)]
    assert {path.partition(".out")[0] for path in left_out(decoder, "*")} == {
        f"layers.{i}.{name}" for i in (0, 1) for name in ("self_attn", "multihead_attn")
    }


@pytest.mark.parametrize("slices", [1, 2])
def test_relatives_in_transformers(slices) -> None:
    """BLOOM with ``pretraining_tp`` multiplies by slices of two of its weights."""
    model = MODELS["bloom"](pretraining_tp=slices, slow_but_exact=True)
    found = {path.rpartition(".")[2] for path in paths(model, "all-linear")}
    assert found == {"query_key_value", "dense_h_to_4h"} | (set() if slices > 1 else {"dense", "dense_4h_to_h"})
    if slices > 1:
        with pytest.raises(VariantError, match="dense_4h_to_h is never called, as BloomMLP reads its weight itself"):
            find_sites(model, "down")
    adapted = attach(model, LoRA(r=2, target="all-linear"))
    model(**inputs("bloom")).logits.sum().backward()
    assert adapted.uncalled() == []


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("clip", "whisper")])
def test_every_map_of_all_linear_is_called(name) -> None:
    """On every architecture: no weight is read past the module."""
    adapted = attach(MODELS[name](), LoRA(r=2, target="all-linear"))
    adapted.model(**inputs(name))
    assert adapted.uncalled() == []


# ---- what all-linear leaves out ----------------------------------------------------------------------------------


def untied(name: str, **options) -> nn.Module:
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "intermediate_size": 24, "pad_token_id": 0, "tie_word_embeddings": False}
    return transformers.AutoModelForCausalLM.from_config(transformers.CONFIG_MAPPING[name](**sizes | options))


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "gpt_neox", "mixtral", "phi", "starcoder2", "glm4"])
def test_an_output_embedding_is_never_taken(name) -> None:
    """peft #2877, #2027: tied or not, known or not; by its name it can be adapted."""
    options = {"head_dim": 4} if name == "glm4" else {}
    model = untied(name, **options)
    output = "lm_head"
    for target in ("all-linear", "*"):
        assert not any("lm_head" in path or "embed_out" in path for path in paths(model, target))
        assert left_out(model, target)[output] == "is the output embedding"
    assert paths(model, f"all-linear,{output}")[-1] == output and output not in left_out(model, f"*,{output}")


def test_mistral_and_llama_have_the_same_maps() -> None:
    assert paths(untied("mistral"), "all-linear") == paths(untied("llama"), "all-linear")
    assert len(paths(untied("mistral"), "all-linear")) == 14


class Custom(nn.Module):
    """No transformers model: an output map by its size alone."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.blocks = nn.Embedding(20, 8), nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.unembed = nn.Linear(8, 20)


def test_an_output_map_of_a_model_of_ones_own_is_known_by_its_size() -> None:
    assert paths(Custom(), "*") == ["blocks.0", "blocks.1"]
    assert left_out(Custom(), "*") == {"unembed": "is the output embedding"}


def test_what_is_left_out_is_logged_in_a_line(caplog) -> None:
    with caplog.at_level(logging.INFO):
        attach(untied("llama"), LoRA(r=2, target="all-linear"))
    assert [record.message for record in caplog.records] == ["all-linear leaves out: lm_head is the output embedding"]


@pytest.mark.parametrize("tied", ["gpt2", "llama"])
def test_a_tied_map_says_that_it_is_tied(tied) -> None:
    """peft #2864: alone and among others."""
    model = untied(tied, tie_word_embeddings=True)
    for target in ("lm_head", "lm_head,attn-qv"):
        with pytest.raises(VariantError, match=r"lm_head shares its weight with the embedding .*\(they are tied\)"):
            attach(model, LoRA(target=target))


# ---- names of other things -----------------------------------------------------------------------------------------


class Zoo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.conv, self.rnn = nn.Embedding(10, 8), nn.Conv1d(8, 8, 3, groups=2), nn.GRU(8, 8)
        self.bilinear, self.attn, self.lin = nn.Bilinear(8, 8, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 4)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("emb", "target='emb' matches no linear map: emb is a Embedding; the nearest are lin"),
        ("lin,conv", "target='conv' matches no linear map that can be adapted: conv is a convolution in 2 groups"),
        ("bilinear", "bilinear is a Bilinear; the nearest are lin$"),
        ("rnn", "rnn is a GRU"),
        ("in_proj_weight", "attn.in_proj_weight is a parameter"),
        ("", "target='' names nothing: choose attn-qv"),
        (" , ", "names nothing"),
    ],
)
def test_a_name_of_something_else_says_what_it_is(target, says) -> None:
    """peft #2549, PR 637: convolutions, embeddings, bilinear maps, cells."""
    with pytest.raises(VariantError, match=says) as error:
        attach(Zoo(), LoRA(r=2, target=target), head=[])
    assert len(str(error.value)) < 300


def test_a_head_that_is_not_there_is_named() -> None:
    with pytest.raises(VariantError, match="head names 'lin.wieght', which the model does not have; .*lin.weight"):
        attach(Zoo(), LoRA(r=2, target="lin"), head=["lin.wieght"])


# ---- blocks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ("7", "layers='7' leaves none of the blocks that target='attn-qv' matches"),
        ("0,7", "there is no block 7; LlamaForSequenceClassification has 0-1"),
        ("0-1000000000", "there is no block 1000000000"),
        ("1-0", "counts down: write 0-1 for 1-0"),
        ("-1", "not a list of numbers and ranges"),
        ("0,", "not a list"),
        ("9" * 5000, "not a list"),
    ],
)
def test_blocks_that_are_not_there_are_refused_at_once(layers, says) -> None:
    """peft #3582, #3693: one of several; in no time and no memory."""
    with pytest.raises(VariantError, match=says) as error:
        attach(MODELS["llama"](), LoRA(layers=layers))
    assert len(str(error.value)) < 300 or layers == "9" * 5000
    assert isinstance(ranges("0-1000000000")[0], range)


def test_every_reader_of_layers_refuses_them() -> None:
    model = MODELS["roberta"]()
    for read in (block_outputs, layer_norms):
        with pytest.raises(VariantError, match="there is no block 2; RobertaForSequenceClassification has 0-1"):
            read(model, "0,2")
    with pytest.raises(VariantError, match="it has no numbered blocks"):
        chosen_blocks("0", [None], "it")
    with pytest.raises(VariantError, match="target='0.a,1.b' has no map in 2|leaves none"):
        find_sites(
            nn.ModuleList(nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}) for _ in range(3)),
            "0.a,1.b",
            "0-1,2",
        )


@pytest.mark.parametrize(
    ("pattern", "says"),
    [("*.layers.1.*.qproj", "matches none of the 4 sites.* nearest is model.layers.1.self_attn.q_proj"),
     (r"layers\\.1\\..*", "it is a glob over names")],
)  # fmt: skip
def test_patterns_that_match_no_site_are_refused(pattern, says) -> None:
    """peft #3554, #1024."""
    with pytest.raises(VariantError, match=says):
        attach(MODELS["llama"](), LoRA(per_layer={"*.0.*": {"r": 2}, pattern: {"r": 2}}))
