"""LoRA against PEFT, on slices of a fused map, and its published sizes."""

import math
from dataclasses import dataclass

import peft
import pytest
import torch
from torch import nn

import variants
from tests.support.models import MODELS, inputs
from tests.support.parity import MAPS, adapter_size, compare, off, pair
from tests.support.tiny import train
from variants import AdaLoRA, DoRA, LoRA, VariantError, attach
from variants.methods.lora import LoRALayer
from variants.sites.targets import find_sites


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("name", MAPS)
def test_equals_peft(name, rslora):
    """On GPT-2 PEFT adapts the whole of c_attn, k included; the paper, and our default target, q and v alone."""
    ours = LoRA(r=4, alpha=6.0, target=",".join(MAPS[name]), rslora=rslora)
    theirs = peft.LoraConfig(r=4, lora_alpha=6, target_modules=MAPS[name], use_rslora=rslora)
    found = compare(pair(name, ours, theirs))
    assert max(found.values()) < 1e-5, found


def test_rank_and_alpha_by_pattern_equal_peft():
    per_layer = {"layer.1.*.value": {"r": 2, "alpha": 16.0}, "query": {"alpha": 3.0}}
    made = pair(
        "roberta",
        LoRA(r=4, alpha=6.0, per_layer=per_layer),
        peft.LoraConfig(
            r=4,
            lora_alpha=6,
            target_modules=MAPS["roberta"],
            rank_pattern={"layer.1.attention.self.value": 2},
            alpha_pattern={"layer.1.attention.self.value": 16, "query": 3},
        ),
    )
    assert [len(layer.lora_A) for layer in made.ours.layers] == [4, 4, 4, 2]
    found = compare(made)
    assert max(found.values()) < 1e-5, found


def test_dropout_equals_peft():
    """Dropout acts on the input of A alone: with the same masks both give the same."""
    made = pair(
        "roberta",
        LoRA(r=4, dropout=0.4),
        peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.4, target_modules=MAPS["roberta"]),
    )
    found = compare(made, seed=5)
    assert max(found.values()) < 1e-5, found
    made.ours.unmerge()
    made.ours.model.train()
    x = torch.randn(2, 16)
    layer = made.ours.layers[0]
    assert off(layer(x, torch.zeros(2, 16)), layer(x, torch.zeros(2, 16))) > 1e-3  # it does drop


class Split(nn.Module):
    """GPT-2's fused map as three linear maps."""

    def __init__(self, fused: nn.Module) -> None:
        super().__init__()
        for name, weight, bias in zip("qkv", fused.weight.chunk(3, dim=1), fused.bias.chunk(3), strict=True):
            linear = nn.Linear(16, 16)
            linear.weight, linear.bias = nn.Parameter(weight.t().clone()), nn.Parameter(bias.clone())
            self.add_module(name, linear)

    def forward(self, x):
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)


def test_slices_of_c_attn_are_two_loras():
    """q and v of the fused map, as in the paper: two adapters of their own, which PEFT has on split maps only."""
    model = MODELS["gpt2"]()
    fused = model.transformer.h[0].attn.c_attn
    split = peft.get_peft_model(Split(fused), peft.LoraConfig(r=3, lora_alpha=6, target_modules=["q", "v"]))
    adapted = attach(model, LoRA(r=3, alpha=6.0, layers="0"))
    assert [layer.site.path.rpartition(".")[2] for layer in adapted.layers] == ["q", "v"]
    theirs = [getattr(split.base_model.model, name) for name in "qv"]
    two = [
        (getattr(layer, name), getattr(other, name)["default"].weight)
        for layer, other in zip(adapted.layers, theirs, strict=True)
        for name in ("lora_A", "lora_B")
    ]
    with torch.no_grad():
        for mine, other in two:
            mine.copy_(torch.randn_like(mine))
            other.copy_(mine)
    x = torch.randn(2, 5, 16)
    outputs = [fused(x), split(x)]
    assert off(*outputs) < 1e-5
    for output in outputs:
        output.square().sum().backward()
    assert max(off(mine.grad, other.grad) / other.grad.abs().max().item() for mine, other in two) < 1e-5
    merged = split.merge_and_unload()
    adapted.merge()
    weight = torch.cat([getattr(merged, name).weight for name in "qkv"])
    assert off(fused.weight.t(), weight) < 1e-5


def test_initial_values():
    """A Kaiming uniform with a = √5, as in the authors' and PEFT's code, or the paper's Gaussian; B zero."""
    linear = nn.Sequential(nn.Linear(400, 300))
    kaiming = attach(linear, LoRA(r=100, target="0")).layers[0]
    bound = 1 / math.sqrt(400)
    assert bound * 0.999 < kaiming.lora_A.abs().max() <= bound
    assert kaiming.lora_A.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    gaussian = attach(nn.Sequential(nn.Linear(400, 300)), LoRA(r=100, target="0", init="gaussian")).layers[0]
    assert gaussian.lora_A.std().item() == pytest.approx(0.02, rel=0.02)
    assert gaussian.lora_A.abs().max() > 3 * 0.02
    assert not kaiming.lora_B.any() and not gaussian.lora_B.any()


@pytest.mark.parametrize(("backbone", "r", "size"), [("roberta-base", 8, 294_912), ("gpt2-medium", 4, 393_216)])
def test_published_sizes(backbone, r, size):
    """0.3M (Table 2 of the paper) and 0.35M printed for GPT-2 medium, whose rank 4 gives 0.39M."""
    assert adapter_size(backbone, LoRA(r=r)) == size


@pytest.mark.parametrize(
    ("options", "part"), [({"r": 17}, "at most 16"), ({"r": 0}, "at least 1"), ({"dropout": 1.0}, "dropout")]
)
def test_what_cannot_work_is_refused(options, part):
    with pytest.raises(VariantError, match=part):
        attach(MODELS["roberta"](), LoRA(**options))


@pytest.mark.parametrize("variant", [LoRA, DoRA])
def test_a_rank_may_exceed_one_narrow_map(variant) -> None:
    """diffusers #4593: few heads of keys, a gate. It computes and merges; above every map it is refused."""
    with pytest.warns(
        UserWarning, match=r"r=12 is above the smaller side of 4 of 14 maps, such as .*k_proj \(8 x 16\)"
    ):
        adapted = attach(MODELS["llama"](), variant(r=12, target="all-linear"))
    train(adapted.trained(), 1)
    batch = inputs("llama")
    with torch.no_grad():
        before = adapted.model(**batch).logits
        adapted.merge()
        assert torch.allclose(adapted.model(**batch).logits, before, atol=1e-4)
    with pytest.raises(VariantError, match="r=12 is more than .*k_proj allows"):
        attach(MODELS["llama"](), variant(r=12, target="k,v"))


class OwnLayer(LoRALayer):
    """Stands for one that takes r singular vectors of the weight."""


@dataclass
class Own(LoRA):
    rank: int = 3  # a name that methods have
    layer = OwnLayer


def test_a_method_that_needs_a_rank_within_the_map_can_say_so() -> None:
    with pytest.raises(VariantError, match="r=12 is more than .*k_proj allows"):
        attach(MODELS["llama"](), Own(r=12, target="all-linear"))
    with pytest.raises(VariantError, match="init_r=12 is more than .*k_proj allows: its matrix is 8 x 16"):
        attach(MODELS["llama"](), AdaLoRA(init_r=12, target="all-linear"))
    assert variants.check_rank(8, find_sites(MODELS["llama"](), "k")[0]) == 8
