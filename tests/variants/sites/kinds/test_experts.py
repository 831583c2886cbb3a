"""Experts of one 3D parameter: each is a linear map that any method adapts."""

from __future__ import annotations

import copy
import pickle

import peft
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.causal_models import tiny, tokens
from variants import LoRA, VariantError, attach, load, registry
from variants.acceleration import accelerated
from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.stack import Stack
from variants.contract.models import shift
from variants.formats import peft as peft_format
from variants.formats.native import save_adapter
from variants.sites.kinds.experts import ExpertMap
from variants.sites.targets import find_sites, left_out

FAMILIES = ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "deepseek_v3", "olmoe", "granitemoe", "nemotron_h")
SIZES = {"r": 2, "init_r": 3, "target_r": 2}


def logits(model: nn.Module, ids: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model(input_ids=tokens() if ids is None else ids, use_cache=False).logits


def method(name: str, target: str = "experts"):
    cls = registry.resolve(name)
    return cls(target=target, **{k: v for k, v in SIZES.items() if k in cls.__dataclass_fields__})


def shifted(adapted: AdaptedModel, scale: float = 0.2) -> AdaptedModel:
    for index, tensor in enumerate(adapted.adapter.tensors().values()):
        shift(tensor.data, index, scale)
    return adapted


@pytest.mark.parametrize("name", FAMILIES)
def test_an_experts_update_is_that_of_its_matrix(name: str) -> None:
    """Against the model whose own parameters have the updates added, in transformers' own way to compute."""
    model, other = tiny(name), tiny(name)
    base = logits(model)
    adapted = attach(model, LoRA(r=2, alpha=2.0, target="experts"))
    assert torch.allclose(logits(model), base, atol=1e-5), "expert by expert is what it was"
    assert model.state_dict().keys() >= other.state_dict().keys()
    shifted(adapted)
    parameters = dict(other.named_parameters())
    with torch.no_grad():
        for layer in adapted.layers:
            head, number, leaf = layer.site.path.rsplit(".", 2)
            matrix = parameters[f"{head}.{leaf}"][int(number)]
            delta = layer.lora_B @ layer.lora_A
            matrix.add_(delta.t() if other.get_submodule(head).is_transposed else delta)
    assert torch.allclose(logits(model), logits(other), atol=1e-4) and not torch.allclose(
        logits(model), base, atol=1e-3
    )
    trained = logits(model)
    adapted.merge()
    assert torch.allclose(logits(model), trained, atol=1e-4)
    adapted.unmerge()
    assert torch.equal(logits(model), trained)
    with adapted.disabled():
        assert torch.equal(logits(model), base), "bit by bit, computed as before"


@pytest.mark.parametrize("name", ["lora", "dora", "vera", "adalora"])
def test_every_method_trains_saves_and_copies(name: str, tmp_path) -> None:
    model = tiny("qwen3_moe")
    adapted = shifted(attach(model, method(name, "experts,attn-qv")))
    scores = model(input_ids=tokens()).logits
    F.cross_entropy(scores.flatten(0, 1), tokens().flatten()).backward()
    assert all(p.grad is not None for p in adapted.trained().values()), "of experts without a token too"
    save_adapter(adapted, tmp_path)
    fresh = tiny("qwen3_moe")
    load(fresh, tmp_path, strict=True)
    assert torch.equal(logits(fresh), logits(model))
    for twin in (copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted))):
        with torch.no_grad():
            for tensor in twin.adapter.tensors().values():
                tensor.zero_()
        assert not torch.equal(logits(twin.model), logits(model))
        assert torch.equal(logits(fresh), logits(model)), "a copy has experts of its own"
    with accelerated(adapted):
        assert torch.allclose(logits(model), logits(fresh), atol=1e-5)


def test_the_same_as_pefts_target_parameters() -> None:
    """peft's LoRA on the whole parameter: an A and a B for each expert, here with the same values."""
    ours, theirs = tiny("qwen3_moe"), tiny("qwen3_moe")
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=[], target_parameters=["mlp.experts.down_proj"])
    wrapped = peft.get_peft_model(theirs, config).eval()
    adapted = shifted(attach(ours, LoRA(r=2, alpha=2.0, target="experts.down_proj")))
    found = dict(wrapped.named_parameters())
    with torch.no_grad():
        for layer in adapted.layers:
            head, number, _ = layer.site.path.rsplit(".", 2)
            a, b = (next(t for n, t in found.items() if f"{head}." in n and f"lora_{x}." in n) for x in "AB")
            count, i = 4, int(number)
            a.view(count, 2, -1)[i].copy_(layer.lora_A)
            b.view(b.shape[0], 2, count)[..., i].copy_(layer.lora_B)
    assert torch.allclose(logits(ours), wrapped(input_ids=tokens()).logits, atol=1e-4)


# ---- names -------------------------------------------------------------------------------------------------------


def test_names_of_experts() -> None:
    model = tiny("mixtral")
    paths = [site.path for site in find_sites(model, "experts")]
    inside = [f"{i}.{x}_proj" for i in range(4) for x in ("gate_up", "down")]
    assert paths == [f"model.layers.{i}.mlp.experts.{path}" for i in (0, 1) for path in inside]
    assert len(find_sites(model, "experts.down_proj")) == 8
    assert [s.path for s in find_sites(model, "experts.3.down_proj", "1")] == ["model.layers.1.mlp.experts.3.down_proj"]
    assert len(find_sites(model, "all-linear")) == 8, "they are named or left out, shown or not"
    assert (
        "adapted by the target experts alone" in left_out(model, "all-linear")["model.layers.0.mlp.experts.0.down_proj"]
    )
    assert not left_out(model, "all-linear,experts").keys() - {"lm_head"}
    with pytest.raises(VariantError, match=r"target='down_proj' matches no linear map"):
        find_sites(model, "down_proj")
    with pytest.raises(VariantError, match=r"target='experts' matches no linear map"):
        find_sites(tiny("llama"), "experts")
    with pytest.raises(VariantError, match=r"target='experts' .* 3D parameter .* which cannot be adapted"):
        find_sites(tiny("llama4_text"), "experts")
    assert any(isinstance(module, ExpertMap) for module in model.modules())


def test_what_experts_cannot_do(tmp_path) -> None:
    adapted = shifted(attach(tiny("mixtral"), LoRA(r=2, target="experts")))
    adapted.add("other", LoRA(r=2, target="experts"), 1)
    with pytest.raises(VariantError, match="lora cannot be stacked: experts get tokens that a router has chosen"):
        Stack(adapted, ["default", "other"])
    with pytest.raises(VariantError, match="'other' cannot share a batch: its experts"), adapted.mixed(["other", None]):
        pass
    adapted.switch("other")
    with pytest.raises(VariantError, match="PEFT has no adapter of a single expert, as model.layers.0.mlp.experts.0"):
        peft_format.save(adapted, tmp_path)
    adapted.merge()
    with pytest.raises(VariantError, match=r"merged into model\.layers\.0\.mlp\.experts\.gate_up_proj"):
        adapted.model.load_state_dict(tiny("mixtral").state_dict(), strict=False)
