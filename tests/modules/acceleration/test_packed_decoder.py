"""A decoder that gets rows without padding computes what it does with padding, and no row sees another."""

import contextlib

import numpy as np
import pytest
import torch

from modules.acceleration.packed_decoder import Packing, why_padded
from modules.backbones.recomputation import checkpoint_blocks
from modules.benchmarks.causal.objective import CausalLM
from modules.benchmarks.causal.targets import PackedTargetRows, TargetRows
from modules.data.tokens import Tokens
from tests.support.causal_models import VOCABULARY, tiny
from tests.support.models import MODELS
from tests.support.tiny import train
from variants import attach
from variants.acceleration import accelerated
from variants.adapters.stack import Stack
from variants.errors import UserError
from variants.registry import resolve
from variants.sites.aliases import ALIASES
from variants.sites.architectures import ARCHITECTURES

LENGTHS = [5, 12, 3, 9]
ROWS = np.arange(4), np.array([0.5, 1.0, 2.0, 0.25], np.float32)


def rows_of(lengths: list[int] = LENGTHS, seed: int = 0) -> Tokens:
    """Random rows; what comes in the second half of each is to be predicted."""
    rng = np.random.RandomState(seed)
    offsets = np.cumsum([0, *lengths])
    targets = np.concatenate([np.arange(n) >= max(n // 2, 1) for n in lengths]).astype(np.uint8)
    counts = np.add.reduceat(targets.astype(np.int64), offsets[:-1])
    return Tokens(rng.randint(4, VOCABULARY - 1, offsets[-1]).astype(np.int32), offsets, counts, targets)


def language_model(name: str, **changes):
    """A small one that is computed with PyTorch's attention."""
    model = tiny(name, **changes)
    model.set_attn_implementation("sdpa")
    return model


def batches(tokens: Tokens, parts: int = 1, multiple: int = 1) -> tuple[dict, dict]:
    """The rows padded, and packed."""
    padded = TargetRows(tokens, 0, [max(LENGTHS)])[ROWS]
    return padded, PackedTargetRows(tokens, 0, 0, parts, multiple)[ROWS]


def outcome(handle, batch, packing=None, backward_inside=True, smoothing=0.0):
    """Losses of the targets, and the gradients of all that trains."""
    objective = CausalLM()
    objective.label_smoothing = smoothing
    with accelerated(handle, also=packing.overrides if packing else ()):
        losses, weights, _ = objective.losses(handle.model, batch, training=True)
    trained = handle.trained()
    found = torch.autograd.grad((weights * losses).sum(), list(trained.values()), allow_unused=True)
    return losses.detach(), dict(zip(trained, found, strict=True))


def same(handle, tokens, multiple=1, parts=1, **close):
    """The packed batch gives the padded one's losses and gradients."""
    padded, packed = batches(tokens, parts, multiple)
    losses, gradients = outcome(handle, padded)
    packing = Packing(handle.model)
    again, own = outcome(handle, packed, packing)
    close = close or {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(again[: len(losses)], losses, **close)
    for name, gradient in gradients.items():
        if gradient is not None:
            torch.testing.assert_close(own[name], gradient, **close, msg=lambda text, name=name: f"{name}: {text}")
    return packing


@pytest.mark.parametrize("variant", ["lora", "dora", "vera", "adalora"])
@pytest.mark.parametrize("model", ["llama", "qwen3", "gemma", "gpt2"])
def test_losses_and_gradients_are_those_with_padding(model, variant):
    handle = attach(language_model(model), resolve(variant)(), seed=0)
    train(handle.trained(), seed=3)
    assert why_padded(handle, max(LENGTHS)) == ""
    same(handle, rows_of())


def whole(handle, batch) -> torch.Tensor:
    """The losses (K,) of a packed batch."""
    return outcome(handle, batch, Packing(handle.model))[0]


@pytest.mark.parametrize("model", ["llama", "gemma3_text", "gpt2"])
def test_no_row_sees_another(model):
    """Other tokens in one row, and every other row's losses are the same bits, the gradients of its tokens zero."""
    handle = attach(language_model(model), resolve("lora")(), seed=0)
    train(handle.trained(), seed=3)
    tokens = rows_of()
    batch, seen = batches(tokens)[1], []
    starts = tokens.offsets[:-1]
    owner = np.searchsorted(starts, batch["positions"].numpy(), side="right") - 1
    before = whole(handle, batch)
    for row in range(len(LENGTHS)):
        other = {name: x.clone() for name, x in batch.items()}
        other["input_ids"][0, starts[row] : starts[row] + LENGTHS[row] // 2] = 4
        moved = (whole(handle, other) != before).numpy()
        assert not moved[owner != row].any()
        seen.append(moved[owner == row].any())
    assert all(seen)


SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}


@pytest.mark.parametrize(
    ("model", "own"),
    [("mistral", {}), ("gemma3_text", SLIDING), ("qwen3", SLIDING | {"use_sliding_window": True}), ("phi3", {})],
)
def test_windows_shorter_than_rows_are_kept(model, own):
    losses = []
    for window in 4, max(LENGTHS):
        handle = attach(language_model(model, sliding_window=window, **own), resolve("lora")(), seed=0)
        train(handle.trained(), seed=3)
        assert why_padded(handle, max(LENGTHS)) == ""
        same(handle, rows_of())
        losses.append(whole(handle, batches(rows_of())[1]))
    assert not torch.allclose(*losses)  # it does something here


@pytest.mark.parametrize("variant", ["lora", "dora"])
@pytest.mark.parametrize("model", ["llama", "mistral"])
def test_blocks_that_are_computed_again_know_their_rows(model, variant):
    """The backward pass comes when the pass is over and the model's own attention is back."""
    handle = attach(language_model(model, sliding_window=4) if model == "mistral" else language_model(model),
                    resolve(variant)(), seed=0)  # fmt: skip
    train(handle.trained(), seed=3)
    batch = batches(rows_of())[1]
    handle.model.train()
    packing = Packing(handle.model)
    losses, gradients = outcome(handle, batch, packing)
    checkpoint_blocks(handle, "on", on_gpu=False)
    again, own = outcome(handle, batch, packing)
    assert torch.equal(again, losses)
    for name, gradient in gradients.items():
        assert torch.equal(own[name], gradient)


def test_released_the_model_is_what_it_was():
    handle = attach(language_model("llama"), resolve("lora")(), seed=0)
    train(handle.trained(), seed=3)
    model, (padded, packed) = handle.model, batches(rows_of())
    hooks = lambda: {name: len(m._forward_pre_hooks) for name, m in model.named_modules()}  # noqa: E731
    (losses, gradients), before, config = outcome(handle, padded), hooks(), dict(vars(model.config))
    packing = Packing(model)
    outcome(handle, packed, packing)
    assert dict(vars(model.config)) == config  # in passes alone it is another
    packing.release()
    assert hooks() == before
    again, own = outcome(handle, padded)
    assert torch.equal(again, losses) and all(torch.equal(own[name], gradients[name]) for name in gradients)


@pytest.mark.parametrize("window", [4, 100])
def test_padded_batches_are_still_taken(window):
    handle = attach(language_model("mistral", sliding_window=window), resolve("lora")(), seed=0)
    padded, _ = batches(rows_of())
    losses, gradients = outcome(handle, padded)
    again, own = outcome(handle, padded, Packing(handle.model))
    torch.testing.assert_close(again, losses)
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-4, atol=1e-5)


def test_unused_places_change_nothing():
    handle = attach(language_model("llama"), resolve("lora")(), seed=0)
    train(handle.trained(), seed=3)
    same(handle, rows_of(), multiple=64)
    batch = batches(rows_of(), multiple=64)[1]
    assert batch["input_ids"].shape == (1, 64) and len(batch["targets"]) == 64 and batch["weights"].count_nonzero() < 20


@pytest.mark.parametrize("variant", ["lora", "dora", "vera"])
def test_stacked_adapters_each_get_their_part(variant):
    """Two adapters, each on its own two rows; the second part has unused places."""
    adapted = attach(language_model("llama"), resolve(variant)(), seed=0)
    adapted.add("other", resolve(variant)(), seed=1)
    stack = Stack(adapted, ["default", "other"])
    train(stack.trained(), seed=3)
    same(stack, rows_of(), parts=2)
    padded, packed = batches(rows_of(), parts=2)
    objective = CausalLM()
    sums = []
    packing = Packing(stack.model)
    for batch, also in (padded, ()), (packed, packing.overrides):
        with accelerated(stack, also=also):
            losses, weights, _ = objective.losses(stack.model, batch, training=True)
        sums.append(objective.sums(losses * weights, batch, 2))
    torch.testing.assert_close(*sums)
    one = PackedTargetRows(rows_of(), 0, 0)[ROWS]
    assert len(objective.repeated(one, 2)["starts"]) == 2


@pytest.mark.parametrize("lowered", [False, True], ids=["mixed", "backbone"])
def test_bf16_too(lowered):
    model = language_model("llama")
    handle = attach(model.to(torch.bfloat16) if lowered else model, resolve("lora")(), seed=0)
    train(handle.trained(), seed=3)
    with torch.autocast("cpu", torch.bfloat16, enabled=not lowered):
        same(handle, rows_of(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("model", "variant", "reason"),
    [
        ("llama", "prefix_layer", "looks at other tokens than its own"),
        ("stablelm", "lora", "more than PyTorch's attention may look"),
        ("nemotron", "lora", "more than PyTorch's attention may look"),
        ("gpt_neo", "lora", "more than PyTorch's attention may look"),
    ],
)
def test_what_needs_padding_says_why(model, variant, reason):
    small = tiny(model)
    with contextlib.suppress(ValueError):
        small.set_attn_implementation("sdpa")
    assert reason in why_padded(attach(small, resolve(variant)(), seed=0), 12)


def test_more_that_needs_padding():
    assert "sdpa" in why_padded(attach(tiny("llama"), resolve("lora")(), seed=0), 12)
    alike = attach(language_model("phimoe", sliding_window=4), resolve("lora")(), seed=0)
    assert "4 tokens at most, and rows have up to 12" in why_padded(alike, 12) and not why_padded(alike, 4)
    assert why_padded(attach(MODELS["gpt2"](), resolve("lora")(), seed=0), 12) == ""


def test_a_model_that_keeps_its_rows_from_attention_is_refused():
    """Whatever the table says: with other versions of transformers a model may be another."""
    handle = attach(language_model("nemotron"), resolve("lora")(), seed=0)
    with pytest.raises(UserError, match="NemotronModel does not tell its attention where packed rows begin"):
        whole(handle, batches(rows_of())[1])


FAMILIES = sorted(name for name, family in ARCHITECTURES.items() if family.causal)
ALIKE = sorted(name for name, family in ALIASES.items() if ARCHITECTURES[family].causal)


@pytest.mark.parametrize("model", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in ALIKE)])
def test_every_language_model_that_packs_computes_what_it_does_row_by_row(model):
    """Each family of the table, and each model whose maps have a family's names."""
    try:
        small = language_model(model)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        pytest.skip(f"it cannot be built small with PyTorch's attention: {str(error)[:80]}")
    handle = attach(small, resolve("lora")(), seed=0)
    if reason := why_padded(handle, max(LENGTHS)):
        pytest.skip(reason)
    tokens = rows_of()
    packed = batches(tokens)[1]
    losses = whole(handle, packed)
    each = [TargetRows(tokens, 0, [n])[np.array([row]), ROWS[1][:1]] for row, n in enumerate(LENGTHS)]
    alone = [CausalLM().losses(small, batch, training=False)[0] for batch in each]
    torch.testing.assert_close(losses, torch.cat(alone).detach(), rtol=1e-4, atol=1e-5)
