"""AdapterDrop: which blocks are left out, when, and an adapter that blocks share."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.support.models import MODELS, inputs
from tests.support.transformer_reference import bottleneck, close, logits, roberta_reference, trained
from variants import AdapterD, VariantError, attach
from variants.adapters.stack import Stack
from variants.contract.models import Subject
from variants.contract.stacking import stacked_is_alone


def test_adapterdrop_leaves_out_the_lowest_in_training_alone() -> None:
    model, batch = MODELS["roberta"](num_hidden_layers=6), inputs("roberta")
    adapted = trained(model, AdapterD(r=4), seed=5)
    model.eval()
    evaluated, patterns = logits(model, batch), set()
    whole = {path: layer for path, layer in adapted.adapter.layers.items()}
    for step in range(1, 60):
        adapted.after_step(step, 100)
        dropped = [bool(layer.dropped) for layer in whole.values()]
        assert dropped == sorted(dropped, reverse=True) and not all(dropped), "the lowest ones, and never all"
        patterns.add(sum(dropped))
        assert torch.equal(logits(model, batch), evaluated), "evaluation uses all"
    assert patterns == set(range(6))
    model.train()
    for step in range(1, 5):
        adapted.after_step(step, 100)
        lowest = sum(bool(layer.dropped) for layer in whole.values())
        fewer = copy.deepcopy(model).eval()
        for layer in list(fewer.roberta.encoder.layer)[:lowest]:
            layer.output.LayerNorm.adapter.enabled = False
        assert close(logits(model, batch), logits(fewer, batch))


def test_adapterdrop_draws_from_the_runs_seed_and_the_step() -> None:
    """So that every rank draws the same, and a resumed run what it would have drawn."""

    def draws(seed: int) -> list[int]:
        adapted, numbers = attach(MODELS["roberta"](num_hidden_layers=6), AdapterD(r=4), seed), []
        for step in range(20):
            adapted.after_step(step, 20)
            numbers.append(sum(int(layer.dropped) for layer in adapted.layers))
        return numbers

    assert draws(5) == draws(5) != draws(6)


@pytest.mark.parametrize("share", [False, True])
def test_seeds_are_stacked_each_with_its_own_draws(share) -> None:
    """Their steps are those of each alone, a property of the contract: here with what blocks share too."""
    variant = AdapterD(r=4, share=share)
    stacked_is_alone(Subject.of(variant))
    adapted, both = attach(MODELS["roberta"](num_hidden_layers=6), variant, 5, name="5"), []
    adapted.add("6", variant, 6)
    stack = Stack(adapted, ["5", "6"])
    for parameter in stack.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for step in range(20):
        stack.after_step(step, 20)
        both.append([sum(int(layer.dropped) for layer in a.layers.values()) for a in adapted.adapters.values()])
    assert len({first == second for first, second in both}) == 2, "at times alike, at times not"


def test_adapterdrop_shares_one_adapter_and_drops_blocks() -> None:
    model, batch = MODELS["roberta"](num_hidden_layers=4), inputs("roberta")
    adapted = trained(model, AdapterD(r=4, share=True))
    assert adapted.count()["adapter"] == 2 * 16 * 4 + 4 + 16
    t, first = adapted.adapter.tensors(), "roberta.encoder.layer.0.output.LayerNorm"
    expected = roberta_reference(model, batch, end=lambda i, u, ln: ln(u + bottleneck(t, first, ln(u))))
    assert close(logits(model, batch), expected)
    dropped = attach(MODELS["roberta"](num_hidden_layers=4), AdapterD(r=4, drop=3))
    assert list(dropped.adapter.layers) == ["roberta.encoder.layer.3.output.LayerNorm"]
    with pytest.raises(VariantError, match="drop=4 leaves no block"):
        attach(MODELS["roberta"](num_hidden_layers=4), AdapterD(r=4, drop=4))
    with pytest.raises(VariantError, match="drop must be at least 0, not -1"):
        AdapterD(drop=-1)
