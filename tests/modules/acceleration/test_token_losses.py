"""Losses in chunks are PyTorch's cross-entropy, gradients included; on a CPU the Triton program is interpreted."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modules.acceleration import token_losses as chunked
from modules.benchmarks.causal import token_losses as plain
from tests.support.passes import llama
from variants import LoRA, attach

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def drawn(tokens: int, vocabulary: int, dtype: torch.dtype, size: float = 1.0) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    hidden = (size * torch.randn(tokens, 16, device=DEVICE)).to(dtype)
    weight = torch.randn(vocabulary, 16, device=DEVICE).to(dtype)
    targets = torch.randint(vocabulary, (tokens,), device=DEVICE)
    targets[:2] = torch.tensor([0, vocabulary - 1])
    return hidden, weight, targets


def exact(hidden, weight, targets, smoothing):
    logits = hidden.double() @ weight.double().mT
    return F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)


@needs_triton
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("tokens", "vocabulary", "dtype", "size"),
    [(5, 37, torch.float32, 1.0), (7, 64, torch.bfloat16, 1.0), (4, 37, torch.float32, 60.0)],
    ids=["fp32", "bf16", "logits that overflow"],
)
def test_losses_and_gradients(tokens, vocabulary, dtype, size, smoothing):
    hidden, weight, targets = drawn(tokens, vocabulary, dtype, size)
    weights, found = torch.rand(tokens, device=DEVICE), []
    for function in (exact, chunked.token_losses):
        x = hidden.detach().requires_grad_()
        losses = function(x, weight, targets, smoothing)
        found.append((losses.float(), torch.autograd.grad((losses * weights).sum(), x)[0].float()))
    near = 1e-5 if dtype == torch.float32 else 0.02
    assert chunked.token_losses(hidden, weight, targets).dtype == torch.float32
    for expected, own in zip(*found, strict=True):
        assert own.isfinite().all() and (own - expected).abs().max() <= near * expected.abs().max()


@needs_triton
def test_chunks_and_blocks(monkeypatch):
    """Many chunks, each with a last one that is shorter, and a vocabulary of several blocks: the same numbers."""
    from modules.acceleration import token_losses_triton

    hidden, weight, targets = drawn(11, 100, torch.float32)
    monkeypatch.setattr(chunked, "ROWS", 4)
    monkeypatch.setattr(chunked, "CHUNK", 1)
    monkeypatch.setattr(token_losses_triton, "MOST", 32)
    seen, own = [], token_losses_triton.losses_and_gradients

    def noted(logits, *rest):
        seen.append(len(logits))
        own(logits, *rest)

    monkeypatch.setattr(token_losses_triton, "losses_and_gradients", noted)
    found = []
    for function in (exact, chunked.token_losses):
        x = hidden.detach().requires_grad_()
        losses = function(x, weight, targets, 0.1)
        found.append((losses.float(), torch.autograd.grad(losses.sum(), x)[0]))
    assert seen == [4, 4, 3]
    for expected, own in zip(*found, strict=True):
        torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-5)


@needs_triton
def test_without_a_gradient_logits_stay_and_no_gradient_is_made(monkeypatch):
    """Of an evaluation; and of no tokens at all there is nothing."""
    made, mm = [], torch.mm
    monkeypatch.setattr(torch, "mm", lambda *args, **options: made.append(1) or mm(*args, **options))
    hidden, weight, targets = drawn(3, 37, torch.float32)
    found, expected = chunked.token_losses(hidden, weight, targets), exact(hidden, weight, targets, 0)
    torch.testing.assert_close(found, expected.float())  # within what fp32 resolves
    assert not made
    x = hidden[:0].requires_grad_()
    losses = chunked.token_losses(x, weight, targets[:0])
    assert losses.shape == (0,) and torch.autograd.grad(losses.sum(), x)[0].shape == (0, 16)


@needs_triton
@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ("none", True),
        ("a trained head", False),
        ("a bias", False),
        ("an adapter", False),
        ("a hook", False),
        ("a hook before", False),
        ("a hook of gradients", False),
        ("a forward of its own", False),
        ("logits that are shaped", False),
        ("no Triton", False),
    ],
)
def test_which_models_losses_are_in_chunks(change, taken, monkeypatch):
    """The others' are computed as ever; in each case they are the same."""
    model = llama().requires_grad_(False).to(DEVICE)
    hidden, targets = torch.randn(4, 32, device=DEVICE), torch.tensor([1, 5, 99, 0], device=DEVICE)
    if change == "a trained head":
        model.lm_head.requires_grad_(True)
    elif change == "a bias":
        model.lm_head.bias = nn.Parameter(torch.randn(100, device=DEVICE), requires_grad=False)
    elif change == "an adapter":
        attach(model, LoRA(r=2, target="lm_head"), head=[])
    elif change == "a hook":
        model.lm_head.register_forward_hook(lambda module, args, y: 2 * y)
    elif change == "a hook before":
        model.lm_head.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    elif change == "a hook of gradients":
        model.lm_head.register_full_backward_hook(lambda module, *gradients: None)
    elif change == "a forward of its own":
        model.lm_head.forward = lambda x: 2 * F.linear(x, model.lm_head.weight)
    elif change == "logits that are shaped":
        model.config.final_logit_softcapping = 5.0
    calls, own = [], chunked.token_losses
    monkeypatch.setattr(chunked, "has_triton", lambda x: change != "no Triton")
    monkeypatch.setattr(chunked, "token_losses", lambda *args: calls.append(1) or own(*args))
    expected = plain.token_losses(model, hidden, targets, 0.1)
    found = chunked.in_chunks(plain.token_losses, plain.shapes_nothing)(model, hidden, targets, 0.1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert bool(calls) == taken


def test_without_triton_it_can_be_imported(monkeypatch):
    """A GPU's runs import it wherever they are."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "triton"]:
        monkeypatch.setitem(sys.modules, name, None)
    spec = importlib.util.spec_from_file_location("again", chunked.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
