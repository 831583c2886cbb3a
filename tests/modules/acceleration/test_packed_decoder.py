"""A decoder that gets rows without padding computes what it does with padding, and no row sees another."""

import numpy as np
import pytest
import torch

from modules.acceleration.packed_decoder import Packing, why_padded
from modules.benchmarks.causal.objective import CausalLM
from modules.benchmarks.causal.targets import PackedTargetRows, TargetRows
from modules.data.tokens import Tokens
from tests.support.causal_models import VOCABULARY, tiny
from tests.support.tiny import train
from variants import attach
from variants.acceleration import accelerated
from variants.registry import resolve

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
