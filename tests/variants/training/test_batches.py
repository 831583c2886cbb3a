"""What a method sees of training batches: inputs without padding, and gradients that autograd gives too."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.models import LABELS, MODELS, inputs
from tests.support.parity import off
from variants import LoRA, VariantError, attach
from variants.training.batches import Batches


def batches(name: str, count: int = 2) -> list[dict[str, torch.Tensor]]:
    found = []
    for rows in range(2, 2 + count):
        batch = inputs(name, rows)
        found.append(batch | {"labels": torch.arange(rows) % LABELS})
    return found


@pytest.mark.parametrize("name", ["roberta", "gpt2"])
def test_gradients_are_autograds(name) -> None:
    """On whole maps and on slices of a transposed one; what trains has no gradient afterwards."""
    given = batches(name)
    adapted = attach(MODELS[name](), LoRA(r=2))
    found = Batches(adapted.model, adapted.layers, given).gradients()
    assert all(p.grad is None for p in adapted.model.parameters())
    plain = MODELS[name]()
    for parameter in plain.parameters():
        parameter.requires_grad_(True)
    sum(plain(**batch).loss for batch in given).backward()
    for path, gradient in found.items():
        site = adapted.adapter.layers[path].site
        expected = plain.get_submodule(site.module_path).weight.grad
        expected = site.rows.of(expected.t() if name == "gpt2" else expected)
        assert off(gradient, expected) < 1e-6 * (1 + expected.abs().max().item()), path
    assert set(found) == set(adapted.adapter.layers)


def test_inputs_leave_padding_out() -> None:
    given = batches("roberta")
    adapted = attach(MODELS["roberta"](), LoRA(r=2))
    for batch, found in zip(given, Batches(adapted.model, adapted.layers, iter(given)).inputs(), strict=True):
        tokens = int(batch["attention_mask"].sum())
        assert tokens < batch["attention_mask"].numel()
        assert all(x.shape == (tokens, 16) and x.dtype == torch.float32 for x in found.values())
    layer = adapted.layers[0]
    embedded = adapted.model.roberta.embeddings(input_ids=given[-1]["input_ids"])
    assert off(found[layer.site.path], embedded[given[-1]["attention_mask"].bool()]) < 1e-6


def test_of_a_convolution_they_are_of_its_patches() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(64, 2))
    image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    weight = model[0].weight.requires_grad_(True)
    model(image).square().sum().backward()
    expected = weight.grad.flatten(1).clone()
    model.zero_grad()
    adapted = attach(model, LoRA(r=2, target="0"), head=[])
    given = Batches(
        _Named(model), adapted.layers, [{"input": image}], lambda batch: model(batch["input"]).square().sum()
    )
    (gradient,) = given.gradients().values()
    assert off(gradient, expected) < 1e-4
    (x,) = next(given.inputs()).values()
    assert off(x, F.unfold(image, 3, padding=1, stride=2).mT.flatten(0, 1)) < 1e-6


class _Named(nn.Module):
    """Called by a name."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.inner(input)


def test_a_loss_of_ones_own() -> None:
    given = [{k: v for k, v in batch.items() if k != "labels"} for batch in batches("roberta")]
    adapted = attach(MODELS["roberta"](), LoRA(r=2))
    with pytest.raises(VariantError, match="no labels.*pass loss="):
        Batches(adapted.model, adapted.layers, given).gradients()

    def loss(batch):
        logits = adapted.model(**batch).logits
        return F.cross_entropy(logits, torch.arange(len(logits)) % LABELS)

    mine = Batches(adapted.model, adapted.layers, given, loss).gradients()
    theirs = Batches(adapted.model, adapted.layers, batches("roberta")).gradients()
    assert all(off(mine[path], theirs[path]) < 1e-6 for path in theirs)


def test_inputs_come_from_the_loss_where_there_is_one() -> None:
    """A model whose call differs from ``model(**batch)``, such as one of noisy pictures."""
    model = nn.Sequential(nn.Linear(4, 3))
    adapted = attach(model, LoRA(r=1, target="0"))
    x = torch.randn(5, 4)
    (seen,) = Batches(
        model, adapted.layers, [{"halves": x / 2}], lambda batch: model(2 * batch["halves"]).sum()
    ).inputs()
    assert torch.allclose(seen["0"], x)
