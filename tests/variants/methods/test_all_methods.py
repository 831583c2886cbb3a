"""What the baselines share: every architecture, the contract under other options, several kinds on one base."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from tests.support.models import MODELS, inputs
from tests.support.transformer_reference import P, close, gpt2_reference, logits, roberta_reference
from variants import AdapterD, AdapterH, AdapterL, FTTop2, PrefixEmbed, PrefixLayer, VariantError, attach, load, resolve
from variants.check import FAILED, check, properties
from variants.contract.models import shift
from variants.formats.native import save_adapter

VARIANTS = {
    "bitfit": {},
    "ft_top2": {"top": 1},
    "adapter_h": {"r": 4},
    "adapter_l": {"r": 4},
    "adapter_p": {"r": 4},
    "adapter_d": {"r": 4},
    "prefix_embed": {"p": P},
    "prefix_layer": {"p": P},
    "prefix_tuning": {"p": P},
}
TEXT_ENCODERS = ("roberta", "bert", "distilbert", "deberta-v2")
TEXT = (*TEXT_ENCODERS, "gpt2", "opt", "llama")


# ---- every architecture ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", TEXT)
def test_every_architecture_trains_saves_and_reloads(name, variant, tmp_path) -> None:
    """In fp32 and bf16 by turns: each method and each architecture in both."""
    turn = TEXT.index(name) + list(VARIANTS).index(variant)
    model = MODELS[name]().to((torch.float32, torch.bfloat16)[turn % 2])
    batch = inputs(name)
    fresh, base = copy.deepcopy(model), logits(model, batch)
    adapted = attach(model, resolve(variant)(**VARIANTS[variant]), seed=0)
    if adapted.variant.identity_at_start:
        assert torch.equal(logits(model, batch), base)
    optimizer = torch.optim.AdamW(adapted.param_groups(0.05))
    for _ in range(2):
        output = model(**batch).logits.float()
        F.cross_entropy(output, torch.arange(len(output))).backward()
        assert all(p.grad is not None for p in adapted.trained().values())
        optimizer.step()
        optimizer.zero_grad()
    after = logits(model, batch)
    assert after.shape == base.shape and after.dtype == base.dtype
    with adapted.disabled():
        assert not torch.allclose(logits(model, batch).float(), after.float(), atol=1e-3) or not adapted.layers
    save_adapter(adapted, tmp_path)
    load(fresh, tmp_path, strict=True)
    assert torch.equal(logits(fresh, batch), after)
    adapted.deactivate()
    assert torch.equal(logits(model, batch), base), "the model is as it was"


OTHERS = [AdapterD(r=4, share=True), AdapterD(r=4, drop=1), AdapterL(r=4, layers="1"), PrefixLayer(p=1)]


@pytest.mark.parametrize("variant", OTHERS, ids=str)
def test_the_contract_holds_for_other_options(variant) -> None:
    slow = {"DDP", "compile", "learns", "no host sync"}
    shared = {"determinism"} if getattr(variant, "share", False) else set()  # one adapter, named after the first block
    failed = [f for f in check(variant, [n for n in properties() if n not in slow | shared]) if f.status == FAILED]
    assert not failed


def test_the_references_are_the_models() -> None:
    for name, reference in (("roberta", roberta_reference), ("gpt2", gpt2_reference)):
        model, batch = MODELS[name](), inputs(name)
        assert close(reference(model, batch), logits(model, batch))


@pytest.mark.parametrize("variant, option", [(AdapterH, "r"), (AdapterD, "r"), (PrefixLayer, "p"), (FTTop2, "top")])
def test_sizes_are_at_least_one(variant, option) -> None:
    with pytest.raises(VariantError, match=f"{option} must be at least 1, not 0"):
        variant(**{option: 0})


# ---- several on one base --------------------------------------------------------------------------------------


@torch.no_grad()
def test_rows_of_a_batch_by_adapters_of_several_kinds() -> None:
    model, batch = MODELS["deberta-v2"](), inputs("deberta-v2")  # its blocks return tuples
    adapted, alone = attach(model, AdapterL(r=4), name="l"), []
    adapted.add("h", AdapterH(r=4))
    for name in ("l", "h", None):
        adapted.switch(name) if name else adapted.deactivate()
        if name:
            for index, tensor in enumerate(adapted.adapter.tensors().values()):
                shift(tensor, index, 0.5)
        alone.append(logits(model, batch))
    with adapted.mixed(["l", "h", None]) as mixed:
        rows = logits(mixed, batch)
    for i, expected in enumerate(alone):
        assert close(rows[i], expected[i])
    adapted.add("prefix", PrefixEmbed(p=2))
    with pytest.raises(VariantError, match="'prefix' cannot share a batch"), adapted.mixed(["l", "h", "prefix"]):
        pass
