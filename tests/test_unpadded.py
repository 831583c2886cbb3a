"""An encoder that leaves padding out on a CPU computes what it does with padding."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modules.config import RunConfig
from modules.data import GlueDataModule
from modules.run import on_cpu
from modules.tasks import TASKS
from modules.unpadded import Places, attention, unpad
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


def test_blocks_see_real_tokens_alone_and_the_last_one_the_first_of_each_row():
    adapted = attach(MODELS["roberta"](), resolve("lora")(), seed=0)
    blocks = len(adapted.model.base_model.encoder.layer)
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
    assert seen[1:] == [(1, int(MASK.sum()))] * 2 * (blocks - 1) + [(1, 3)] * 2


@pytest.mark.parametrize("mask", [MASK.flip(1), torch.cat((MASK, torch.zeros_like(MASK[:1])))], ids=["left", "empty"])
def test_rows_that_do_not_start_with_a_token_keep_their_padding(mask):
    adapted = attach(MODELS["roberta"](), resolve("lora")(), seed=0)
    logits, _ = outcome(adapted, mask)
    unpad(adapted)
    assert torch.equal(outcome(adapted, mask)[0], logits)


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


@pytest.mark.parametrize("lowered", [False, True], ids=["mixed", "backbone"])
def test_bf16_too(lowered):
    adapted = attach(MODELS["roberta"](), resolve("lora")(), seed=0)
    train(adapted.trained(), seed=3)
    if lowered:
        adapted.model.base_model.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        logits, gradients = outcome(adapted, MASK)
        assert unpad(adapted)
        again, own = outcome(adapted, MASK)
    torch.testing.assert_close(again, logits, rtol=0.02, atol=0.02)
    total, difference = (
        sum(g.float().square().sum() for g in each)
        for each in (gradients.values(), [own[name] - gradient for name, gradient in gradients.items()])
    )
    assert difference < 0.01 * total


def test_a_layer_on_attention_itself_keeps_its_padding():
    adapted = attach(MODELS["roberta"](), resolve("lora")(), seed=0)
    site = adapted.layers[0].site
    assert site.module is not (module := adapted.model.base_model.encoder.layer[0].attention.self)
    adapted.layers[0].site = dataclasses.replace(site, module=module)
    assert not unpad(adapted)


def attention_of_rows(query, key, value, lengths: list[int], heads: int) -> torch.Tensor:
    """PyTorch's, row after row; where there is one query for each row, that one."""
    rows = []
    queries = query.split(lengths if len(query) == len(key) else [1] * len(lengths))
    for q, k, v in zip(queries, key.split(lengths), value.split(lengths), strict=True):
        q, k, v = (part.unflatten(1, (heads, -1)).transpose(0, 1) for part in (q, k, v))
        rows.append(F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1))
    return torch.cat(rows)


@pytest.mark.parametrize("first", [False, True])
def test_attention_within_rows_is_pytorchs(first):
    places, lengths = Places.of(MASK, heads=2), MASK.sum(1).tolist()
    tokens = [torch.randn(sum(lengths), 6, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    tokens[0] = tokens[0].detach()[: len(MASK) if first else None].requires_grad_()

    def own(*tokens: torch.Tensor) -> torch.Tensor:
        return attention(*tokens, places, 3**-0.5)

    torch.testing.assert_close(own(*tokens), attention_of_rows(*tokens, lengths, heads=2))
    assert torch.autograd.gradcheck(own, tokens)


def test_dropout_leaves_weights_out_and_scales_the_others():
    places, count = Places.of(MASK, heads=2), int(MASK.sum())
    torch.manual_seed(0)
    tokens = [torch.randn(count, 6, dtype=torch.float64, requires_grad=True) for _ in range(3)]

    def dropped(*tokens: torch.Tensor, seed: int = 0) -> torch.Tensor:
        torch.manual_seed(seed)
        return attention(*tokens, places, 1.0, dropout=0.25)

    assert torch.autograd.gradcheck(dropped, tokens)
    ones = torch.ones_like(tokens[2])  # one value for all: 1 but for dropout
    found = torch.stack([dropped(*tokens[:2], ones, seed=seed).detach() for seed in range(400)])
    assert found.std(0).min() > 0.1
    torch.testing.assert_close(found.mean(0), ones, atol=0.12, rtol=0)


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
