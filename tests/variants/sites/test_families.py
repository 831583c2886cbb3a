"""Fused maps against transformers' own code, families with parts of two kinds, and what each row of the table says."""

from __future__ import annotations

import importlib
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.causal_models import tiny
from tests.support.models import BASIC, MODELS, inputs
from variants import LoRA, VariantError, attach, base_model
from variants.adapters.combine import combine
from variants.contract.models import shift
from variants.formats import loralib, peft
from variants.formats.native import save_adapter
from variants.sites.architectures import ARCHITECTURES, architecture_of, head_parameters
from variants.sites.blocks import block_outputs, blocks
from variants.sites.targets import find_sites, siblings

NEW = [name for name in MODELS if name not in BASIC]
# model type -> (fused map, changes of the configuration): every layout that the family has
FUSED = {
    "gpt2": ("transformer.h.0.attn.c_attn", {}),
    "phi3": ("model.layers.0.self_attn.qkv_proj", {}),
    "phi3, one head each": ("model.layers.0.self_attn.qkv_proj", {"num_key_value_heads": 4}),
    "gpt_neox": ("gpt_neox.layers.0.attention.query_key_value", {}),
    "bloom": ("transformer.h.0.self_attention.query_key_value", {}),
    "falcon": ("transformer.h.0.self_attention.query_key_value", {}),
    "falcon, one head each": ("transformer.h.0.self_attention.query_key_value", {"multi_query": False}),
    "falcon, grouped": (
        "transformer.h.0.self_attention.query_key_value",
        {"new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "deepseek_v3": ("model.layers.0.self_attn.kv_b_proj", {}),
    "persimmon": ("model.layers.0.self_attn.query_key_value", {}),
    "gpt_bigcode": ("transformer.h.0.attn.c_attn", {}),
    "gpt_bigcode, one head each": ("transformer.h.0.attn.c_attn", {"multi_query": False}),
    "mpt": ("transformer.blocks.0.attn.Wqkv", {}),
    "codegen": ("transformer.h.0.attn.qkv_proj", {}),
    "deberta": ("deberta.encoder.layer.0.attention.self.in_proj", {}),
    "modernbert": ("model.layers.0.attn.Wqkv", {}),
}


SEEN = [case for case in FUSED if case not in ("deepseek_v3", "persimmon", "mpt", "codegen")]
"""Those that take their q, k and v to a function of their module, or are no decoders."""


def fused_model(case: str) -> tuple[nn.Module, nn.Module, str, str]:
    """(model, its first fused map, that map's path, model type)"""
    name, (path, changes) = case.partition(",")[0], FUSED[case]
    model = MODELS[name](**changes) if name in MODELS else tiny(name, **changes)
    return model, model.get_submodule(path), path, name


def seen_as(model: nn.Module, fused: nn.Module, name: str, monkeypatch) -> dict[str, list[int]]:
    """Which features of the fused map transformers' code takes for q, k and v, in the order in which it does.

    The map puts out 0, 1, 2, ... for a text of one token, whose position turns nothing.
    """
    found: dict[str, tuple[Tensor, ...]] = {}
    code = importlib.import_module(type(model).__module__)

    def spy(owner, attribute: str, pick) -> None:
        original = getattr(owner, attribute)

        def record(*args, **kwargs):
            result = original(*args, **kwargs)
            found.setdefault(attribute, pick(args, result))
            return result

        monkeypatch.setattr(owner, attribute, record)

    if name == "falcon":
        spy(code.FalconAttention, "_split_heads", lambda args, result: result)
    elif name == "bloom":
        spy(code.BloomAttention, "_reshape", lambda args, result: result)
    elif name == "deberta":
        attention = model.deberta.encoder.layer[0].attention.self
        for bias in (attention.q_bias, attention.v_bias):
            bias.data.zero_()
        spy(code, "scaled_size_sqrt", lambda args, result: args[:1])
        spy(code.DisentangledSelfAttention, "disentangled_att_bias", lambda args, result: args[2:3])  # the keys
        attention.register_forward_hook(lambda m, args, result: found.update(context=result[:1]))
    else:
        model.config._attn_implementation = "eager"
        spy(code, "eager_attention_forward", lambda args, result: args[1:4])
    fused.register_forward_hook(lambda m, args, y: torch.arange(y.shape[-1]).to(y).expand_as(y))
    with torch.no_grad():
        model(input_ids=torch.tensor([[5]]), attention_mask=torch.ones(1, 1, dtype=torch.long))
    if name == "deberta":  # what attention makes of one token is its value
        taken = [found[key][0] for key in ("scaled_size_sqrt", "disentangled_att_bias", "context")]
    else:
        (taken,) = found.values()
    return {role: list(dict.fromkeys(t.flatten().long().tolist())) for role, t in zip("qkv", taken, strict=True)}


@pytest.mark.parametrize("case", SEEN)
def test_parts_of_fused_maps_are_what_transformers_takes_them_for(case: str, monkeypatch) -> None:
    model, fused, path, name = fused_model(case)
    sites = {s.path.rpartition(".")[2]: s for s in find_sites(model, "q,k,v") if s.module is fused}
    expected = seen_as(model, fused, name, monkeypatch)
    for role, rows in expected.items():
        assert sites[role].rows.indices() == sorted(rows), f"{role} of {path}"
    assert sorted(i for rows in expected.values() for i in rows) == list(range(sites["q"].total_out))


@pytest.mark.parametrize("case", [case for case in FUSED if case.partition(",")[0] not in ("deberta", "modernbert")])
def test_parts_of_fused_maps_do_in_attention_what_their_role_does(case: str) -> None:
    """Of two tokens the second reads the key and the value of the first, and the first its own value alone."""
    model, fused, path, _ = fused_model(case)
    seen = {}
    fused.register_forward_hook(lambda m, args, y: seen.setdefault("qkv", y.detach().requires_grad_()))
    block = re.match(r".*?\.\d+(?=\.)", path)[0]
    model.get_submodule(block).register_forward_hook(
        lambda m, args, y: seen.update(out=y[0] if isinstance(y, tuple) else y)
    )
    model(input_ids=torch.tensor([[5, 9]]), attention_mask=torch.ones(1, 2, dtype=torch.long))

    def moves(reader: int, read: int) -> set[int]:
        out = seen["out"][0, reader]
        (gradient,) = torch.autograd.grad(out @ torch.arange(1.0, len(out) + 1), seen["qkv"], retain_graph=True)
        return set((gradient.flatten(0, -2)[read].abs() > 1e-5 * gradient.abs().max()).nonzero().flatten().tolist())

    v = moves(0, 0)
    k = moves(1, 0) - v
    q = moves(1, 1) - v - k
    own = {s.path.rpartition(".")[2]: set(s.rows.indices()) for s in find_sites(model, "q,k,v") if s.module is fused}
    assert own == {role: rows for role, rows in {"q": q, "k": k, "v": v}.items() if role in own}
    assert len(own) == (2 if case == "deepseek_v3" else 3)


@pytest.mark.parametrize("case", FUSED)
@pytest.mark.parametrize("role", "qkv")
@torch.no_grad()
def test_an_adapter_on_a_part_changes_its_rows_alone(case: str, role: str) -> None:
    model, fused, path, _ = fused_model(case)
    site = next((s for s in find_sites(model, role) if s.module is fused), None)
    if site is None:
        pytest.skip("the query of latent attention has a map of its own")
    x = torch.randn(2, 5, site.in_features)
    before = fused(x)
    adapted = attach(model, LoRA(r=2, alpha=3.0, target=role))
    for index, tensor in enumerate(adapted.adapter.tensors().values()):
        shift(tensor, index, 0.5)
    t = adapted.adapter.tensors()
    delta = 1.5 * x @ t[f"{path}.{role}.lora_A"].T @ t[f"{path}.{role}.lora_B"].T
    expected = before.clone()
    rows = torch.tensor(site.rows.indices())
    expected[..., rows] = before[..., rows] + delta
    assert torch.allclose(fused(x), expected, atol=1e-5)
    after = fused(x)
    others = torch.tensor([i for i in range(site.total_out) if i not in set(site.rows.indices())])
    assert torch.equal(after[..., others], before[..., others])
    adapted.merge()
    assert torch.allclose(fused(x), expected, atol=1e-5)
    adapted.unmerge()
    adapted.deactivate()
    assert torch.equal(fused(x), before)


def test_phi3_has_gate_and_up_in_one_map() -> None:
    model = MODELS["phi3"]()
    (gate, up) = find_sites(model, "gate,up", "0")
    assert gate.module is up.module and (gate.start, gate.stop, up.start, up.stop) == (0, 24, 24, 48)
    x = torch.randn(3, 16)
    mlp = model.model.layers[0].mlp
    expected = mlp.down_proj(F.linear(x, up.weight()) * mlp.activation_fn(F.linear(x, gate.weight())))
    assert torch.allclose(mlp(x), expected, atol=1e-6)


# ---- presets ----------------------------------------------------------------------------------------------------

FUSED_BLOCKS = {  # model type -> (block, fused maps with their roles, other maps)
    "gpt2": ("transformer.h", {"attn.c_attn": "qkv"}, {"o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}),
    "deberta": (
        "deberta.encoder.layer",
        {"attention.self.in_proj": "qkv"},
        {"o": "attention.output.dense", "up": "intermediate.dense", "down": "output.dense"}
        | {"": "attention.self.pos_proj", " ": "attention.self.pos_q_proj"},
    ),
    "modernbert": ("model.layers", {"attn.Wqkv": "qkv"}, {"o": "attn.Wo", "up": "mlp.Wi", "down": "mlp.Wo"}),
    "phi3": (
        "model.layers",
        {"self_attn.qkv_proj": "qkv", "mlp.gate_up_proj": ("gate", "up")},
        {"o": "self_attn.o_proj", "down": "mlp.down_proj"},
    ),
    "gpt_neox": (
        "gpt_neox.layers",
        {"attention.query_key_value": "qkv"},
        {"o": "attention.dense", "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"},
    ),
    **{
        name: (
            "transformer.h",
            {"self_attention.query_key_value": "qkv"},
            {"o": "self_attention.dense", "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"},
        )
        for name in ("bloom", "falcon")
    },
}


@pytest.mark.parametrize("name", FUSED_BLOCKS)
def test_roles_and_presets_of_fused_maps(name: str) -> None:
    model, (block, fused, maps) = MODELS[name](), FUSED_BLOCKS[name]
    roles = {role: f"{path}.{role}" for path, own in fused.items() for role in own} | maps

    def of(*names: str) -> set[str]:
        return {f"{block}.{i}.{roles[x]}" for i in (0, 1) for x in names}

    def paths(target: str) -> set[str]:
        return {site.path for site in find_sites(model, target)}

    for role in roles:
        assert not role.strip() or paths(role) == of(role)
    assert paths("attn-qv") == of("q", "v") and paths("attn") == of(*"qkvo")
    assert paths("all-linear") == of(*maps) | {f"{block}.{i}.{path}" for i in (0, 1) for path in fused}
    assert all(site.is_whole for site in find_sites(model, "all-linear"))


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("target", ["attn-qv", "attn", "all-linear"])
def test_every_layer_of_a_preset_trains(name: str, target: str) -> None:
    model, batch = MODELS[name](), inputs(name)
    adapted = attach(model, LoRA(r=2, target=target))
    with torch.no_grad():
        before = model(**batch).logits
        for index, layer in enumerate(adapted.layers):
            shift(layer.lora_B, index, 0.5)
    after = model(**batch).logits
    assert not torch.allclose(after, before, atol=1e-3)
    F.cross_entropy(after, torch.arange(len(after)) % after.shape[1]).backward()
    still = [name for name, p in adapted.trained().items() if p.grad is None or not p.grad.any()]
    soft = "k_proj.lora", "key.lora"  # a softmax over keys does not see what is added to all of them
    assert not [name for name in still if not any(part in name for part in soft)]


@pytest.mark.parametrize("make", ["LlamaForCausalLM", "Phi3ForCausalLM", "GPTNeoXForCausalLM", "FalconForCausalLM"])
def test_all_linear_takes_no_output_embedding(make: str) -> None:
    import transformers

    name = {"Llama": "llama", "Phi3": "phi3", "GPTNeoX": "gpt_neox", "Falcon": "falcon"}[make.partition("For")[0]]
    config = MODELS[name]().config
    config.tie_word_embeddings = False
    model = getattr(transformers, make)(config)
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    paths = [site.module_path for site in find_sites(model, "all-linear")]
    assert len(paths) == len(find_sites(MODELS[name](), "all-linear")) and not any("lm_head" in p for p in paths)
    assert head_parameters(model) == []


# ---- encoders and decoders ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bart", "mt5"])
def test_encoders_and_decoders_have_three_attentions(name: str) -> None:
    model = MODELS[name]()
    found = [site.path for site in find_sites(model, "q,v")]
    assert len(found) == 12 and len(find_sites(model, "attn")) == 24
    assert sum("encoder_attn" in path or "EncDec" in path for path in found) == 4
    assert len(siblings(model)) == 4, "attention to the other sequence reads two"
    names = {id(m): path for path, m in model.named_modules()}
    assert not any("encoder_attn" in names[id(m)] or "EncDec" in names[id(m)] for g in siblings(model) for m in g)


def test_whisper_with_a_decoder_has_no_head() -> None:
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration(MODELS["whisper"]().config)
    assert head_parameters(model) == []
    assert len(find_sites(model, "q")) == 6 and len(find_sites(model, "all-linear")) == 2 * 6 + 2 * 10
    assert len(siblings(model)) == 4


def test_clip_has_two_towers_and_projections_of_its_own() -> None:
    from transformers import CLIPModel, CLIPTextModelWithProjection

    config = MODELS["clip"]().config
    for key, value in {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}.items():
        setattr(config.text_config, key, value)
    both, text = CLIPModel(config), CLIPTextModelWithProjection(config.text_config)
    assert head_parameters(both) == head_parameters(text) == [], "what was pretrained is backbone"
    assert len(find_sites(both, "attn-qv")) == 8 and len(find_sites(both, "all-linear")) == 24
    assert {s.path for s in find_sites(text, "attn-qv")} == {
        f"text_model.encoder.layers.{i}.self_attn.{x}_proj" for i in (0, 1) for x in "qv"
    }


# ---- blocks ---------------------------------------------------------------------------------------------------------


def test_albert_has_one_block_for_all() -> None:
    """Its module is called twice here, and adapted once."""
    model, batch = MODELS["albert"](), inputs("albert")
    assert list(blocks(model)) == ["albert.encoder.albert_layer_groups.0"]
    block = "albert.encoder.albert_layer_groups.0.albert_layers.0"
    assert {s.path: s.module_path for s in find_sites(model, "attn")} == {
        p: p for p in (f"{block}.attention.{x}" for x in ("query", "key", "value", "dense"))
    }
    calls = []
    model.get_submodule(f"{block}.attention.query").register_forward_hook(lambda *_: calls.append(1))
    adapted = attach(model, LoRA(r=2))
    model(**batch).logits.sum().backward()
    assert len(calls) == model.config.num_hidden_layers == 2 and len(adapted.layers) == 2
    assert adapted.layers[0].lora_B.grad.any()


@pytest.mark.parametrize("name", [n for n in MODELS if ARCHITECTURES[n].last_norm])
def test_blocks_that_end_with_a_norm_put_out_what_it_does(name: str) -> None:
    model, batch = MODELS[name](), inputs(name)
    ends = block_outputs(model)
    assert ends and all(site.ends_with_norm for site in ends)
    for site, path in zip(ends, blocks(model), strict=True):
        seen = {}
        site.module.register_forward_hook(lambda m, a, y, seen=seen: seen.update(norm=y))
        model.get_submodule(path).register_forward_hook(
            lambda m, a, y, seen=seen: seen.update(block=y[0] if isinstance(y, tuple) else y)
        )
        with torch.no_grad():
            model(**batch)
        assert torch.equal(seen["norm"], seen["block"])


@pytest.mark.parametrize("name", MODELS)
def test_dropout_goes_by_the_names_of_the_row(name: str) -> None:
    config = MODELS[name]().config
    config = getattr(config, "vision_config", config)
    assert ARCHITECTURES[name].dropout
    assert all(isinstance(getattr(config, option), float) for option in ARCHITECTURES[name].dropout)


# ---- files of interleaved parts --------------------------------------------------------------------------------------


def neox(**options) -> tuple[nn.Module, dict, object]:
    model = MODELS["gpt_neox"]()
    adapted = attach(model, LoRA(**{"r": 2, "target": "q,v"} | options))
    for index, tensor in enumerate(adapted.adapter.tensors().values()):
        shift(tensor, index, 0.3)
    return model, inputs("gpt_neox"), adapted


@torch.no_grad()
def test_interleaved_parts_become_one_whole_map_in_pefts_format(tmp_path) -> None:
    model, batch, adapted = neox()
    peft.save(adapted, tmp_path)
    loaded = peft.load(MODELS["gpt_neox"](), tmp_path)
    assert torch.allclose(loaded.model(**batch).logits, model(**batch).logits, atol=1e-5)


def test_interleaved_parts_are_nothing_for_loralib_or_a_stand_in(tmp_path) -> None:
    _, _, adapted = neox()
    with pytest.raises(VariantError, match="loralib cannot express the slices"):
        loralib.save(adapted, tmp_path / "x.bin")
    save_adapter(adapted, tmp_path / "ours")
    with pytest.raises(VariantError, match=r"does not tell where . lies in its map: give the model as well"):
        base_model.stand_in(tmp_path / "ours")


@torch.no_grad()
def test_interleaved_parts_combine_with_the_whole_map() -> None:
    model, batch, adapted = neox(target="q")
    adapted.add("whole", LoRA(r=2, target="query_key_value"))
    for index, tensor in enumerate(adapted.adapter.tensors().values()):
        shift(tensor, index, 0.3)
    fused, x = model.gpt_neox.layers[0].attention.query_key_value, torch.randn(3, 16)
    whole = fused(x)
    adapted.switch("default")
    part = fused(x)
    adapted.deactivate()
    base = fused(x)
    combine(adapted, {"default": 1.0, "whole": 1.0}, "both")
    assert torch.allclose(fused(x), part + whole - base, atol=1e-5)
    assert architecture_of(model).names == ("gpt_neox",)


def test_one_map_is_cut_in_one_way() -> None:
    model = MODELS["gpt_neox"]()
    named = "query_key_value[0:4:12],query_key_value[8:12:12]"
    assert [s.span for s in find_sites(model, named)] == [s.span for s in find_sites(model, "q,v")]
    with pytest.raises(VariantError, match="twice"):
        find_sites(model, "q,query_key_value[0:8]")
    with pytest.raises(VariantError, match="in two ways"):
        find_sites(model, "q,query_key_value[4:8]")
    with pytest.raises(VariantError, match="is not within"):
        find_sites(model, "query_key_value[0:4:13]")


def test_a_fused_map_of_another_width_is_refused() -> None:
    model = MODELS["phi3"]()
    model.config.num_key_value_heads = 3
    with pytest.raises(VariantError, match="do not fall into 1 times 10 parts .* name the whole map instead of 'q'"):
        find_sites(model, "q")
