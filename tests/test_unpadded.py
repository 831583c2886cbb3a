"""An encoder that leaves padding out on a CPU computes what it does with padding."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modules.config import RunConfig
from modules.data import GlueDataModule
from modules.run import on_cpu
from modules.tasks import TASKS
from modules.unpadded import Places, unpad
from tests.models import MODELS
from tests.test_data import make_tokens
from tests.tiny import train
from variants import AdapterLayer, LoRA, attach
from variants.lora import LoRALayer
from variants.registry import resolve

MASK = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])


def outcome(adapted, mask: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits of a fixed batch, and the gradients of all that trains."""
    ids = torch.randint(5, 50, mask.shape, generator=torch.Generator().manual_seed(1))
    logits = adapted.model(input_ids=ids.where(mask == 1, 1), attention_mask=mask).logits
    trained = adapted.trained()
    found = torch.autograd.grad(logits.square().sum(), list(trained.values()))
    return logits.detach(), dict(zip(trained, found, strict=True))


@pytest.mark.parametrize("mask", [MASK, torch.ones_like(MASK)], ids=["padded", "full"])
@pytest.mark.parametrize("variant", ["lora", "dora", "full", "bitfit", "adapter_h", "adapter_p"])
@pytest.mark.parametrize("architecture", ["roberta", "bert"])
def test_logits_and_gradients_are_those_with_padding(architecture, variant, mask):
    adapted = attach(MODELS[architecture](), resolve(variant)(), seed=0)
    train(adapted.trained(), seed=3)
    logits, gradients = outcome(adapted, mask)
    assert unpad(adapted)
    again, own = outcome(adapted, mask)
    torch.testing.assert_close(again, logits)
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_blocks_see_real_tokens_alone():
    adapted = attach(MODELS["roberta"](), resolve("lora")(), seed=0)
    seen: list[torch.Size] = []
    for module in adapted.model.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(lambda module, args, output: seen.append(output.shape[:2]))
    outcome(adapted, MASK)
    assert set(seen) == {(3, 6)}
    seen.clear()
    unpad(adapted)
    outcome(adapted, MASK)
    assert seen[0] == (3, 6)  # of the embeddings
    assert set(seen[1:]) == {(1, int(MASK.sum()))}


@pytest.mark.parametrize("variant", ["prefix_embed", "prefix_layer", "prefix_tuning"])
def test_prefixes_keep_their_padding(variant):
    assert not unpad(attach(MODELS["roberta"](), resolve(variant)(), seed=0))


def test_a_layer_that_says_nothing_of_tokens_keeps_its_padding():
    """A method from outside may look at neighbours: nothing is taken from under it."""

    class Shifted(LoRA):
        class layer(LoRALayer):  # noqa: N801
            per_token = AdapterLayer.per_token

            def forward(self, x, y):
                return y + F.linear(x.roll(1, dims=-2), self.delta_weight())

    assert not unpad(attach(MODELS["roberta"](), Shifted(), seed=0))
    assert unpad(attach(MODELS["roberta"](), LoRA(), seed=0))


@pytest.mark.parametrize("architecture", ["distilbert", "deberta-v2", "gpt2"])
def test_other_models_keep_their_padding(architecture):
    assert not unpad(attach(MODELS[architecture](), resolve("lora")(), seed=0))


def test_places_are_differentiable():
    places = Places(MASK.flatten().nonzero().flatten(), *MASK.shape)
    tokens = torch.randn(1, int(MASK.sum()), 2, 3, dtype=torch.float64, requires_grad=True)
    padded = torch.randn(*MASK.shape, 3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(places.take(places.pad(tokens)), tokens)
    assert not places.pad(tokens)[MASK == 0].any()
    assert torch.autograd.gradcheck(places.pad, tokens)
    assert torch.autograd.gradcheck(places.take, padded)
    assert torch.autograd.gradgradcheck(places.take, padded)


def test_exact_padding_is_to_the_longest_row():
    def widths(data: GlueDataModule) -> set[tuple[int, int]]:
        batches = list(data.train_dataloader())
        return {(batch["input_ids"].shape[1], int(batch["attention_mask"].sum(1).max())) for batch in batches}

    options = {"pad_id": 1, "batch_size": 4, "max_length": 48}
    data = GlueDataModule(TASKS["rte"], {"train": make_tokens(list(range(3, 43)))}, **options)
    assert {width for width, _ in widths(data)} <= {16, 24, 32, 48}
    data.pad_exactly()
    assert all(width == longest for width, longest in widths(data))
    fixed = GlueDataModule(TASKS["rte"], {"train": make_tokens([3, 5, 9])}, pad="max", **options)
    fixed.pad_exactly()
    assert {width for width, _ in widths(fixed)} == {48}


@pytest.mark.parametrize(
    ("gpu", "accelerator", "expected"),
    [(True, "auto", False), (True, "cpu", True), (False, "auto", True), (True, "gpu", False)],
)
def test_what_runs_on_the_cpu(monkeypatch, gpu, accelerator, expected):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu)
    config = RunConfig.__new__(RunConfig)
    object.__setattr__(config, "trainer", {"accelerator": accelerator})
    assert on_cpu(config) == expected
