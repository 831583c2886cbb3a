"""LoRA-Pro's gradients in batches are those layer by layer."""

import pytest
import torch

from tests.support.models import MODELS, inputs
from variants import attach
from variants.acceleration import accelerated_updates
from variants.acceleration.methods import lora_pro
from variants.registry import resolve


@pytest.mark.acceleration
def test_batched_gradients_are_each_layer_s(monkeypatch):
    """Maps of two shapes, two ranks, two scalings, and a layer without gradients."""
    adapted = attach(
        MODELS["roberta"](),
        resolve("lora_pro")(
            r=3, alpha=6, target="all-linear", per_layer={"*.layer.1.*": {"alpha": 2}, "*query": {"r": 2}}
        ),
        seed=0,
    )
    with torch.no_grad():
        for layer in adapted.layers:
            layer.lora_B.normal_(std=0.3)
    adapted.model(**inputs("roberta", batch=4)).logits.square().sum().backward()
    adapted.layers[0].lora_A.grad = adapted.layers[0].lora_B.grad = None
    given = [(p, p.grad.clone()) for layer in adapted.layers for p in layer.parameters() if p.grad is not None]

    def outcome() -> list[torch.Tensor]:
        adapted.before_step(1, 10)
        found = [p.grad.clone() for p, _ in given]
        for p, gradient in given:
            p.grad.copy_(gradient)
        return found

    expected, batches = outcome(), []
    monkeypatch.setattr(lora_pro, "adjusted", lambda A, *rest: batches.append(len(A)) or real(A, *rest))
    with accelerated_updates(adapted):
        found = outcome()
    torch.testing.assert_close(found, expected)
    assert sum(batches) == len(given) // 2 == 11 and max(batches) == 3  # k, v and o of one block
    assert not any(torch.equal(a, b) for a, (_, b) in zip(found, given, strict=True))


real = lora_pro.adjusted
