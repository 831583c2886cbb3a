"""The wrappers of PyTorch's private names: all are there, each does what it says, and a missing one is told."""

import pytest
import torch

from variants.acceleration.basics import torch_private


def test_the_installed_version_has_every_name():
    assert torch_private.available() and torch_private.MISSING == () and torch_private.why_unavailable() == ""


def test_a_missing_name_is_told_in_one_line_with_the_version(monkeypatch):
    assert not torch_private._exists("_C._functorch.no_such_name")
    monkeypatch.setattr(torch_private, "MISSING", ("_foreach_abs",))
    assert not torch_private.available()
    reason = torch_private.why_unavailable()
    assert f"PyTorch {torch.__version__} has no torch._foreach_abs" in reason and "\n" not in reason


def test_which_transforms_are_active():
    seen = []

    def look(x):
        seen.append(torch_private.function_transforms_active())
        return x.sum()

    look(torch.ones(2))
    torch.func.vmap(look)(torch.ones(2, 3))
    torch.func.grad(look)(torch.ones(3))
    torch.func.vmap(torch.func.grad(look))(torch.ones(2, 3))
    assert seen == [False, True, True, True]


def test_the_gradient_of_a_softmax():
    scores = torch.randn(2, 5, requires_grad=True)
    weights, gradient = torch.softmax(scores, -1), torch.randn(2, 5)
    (expected,) = torch.autograd.grad(weights, scores, gradient)
    torch.testing.assert_close(torch_private.softmax_backward(gradient, weights.detach()), expected)


def test_operations_on_many_tensors():
    a, b = [torch.tensor([1.0, -2.0]), torch.tensor([3.0])], [torch.tensor([2.0, 2.0]), torch.tensor([-1.0])]
    assert [t.tolist() for t in torch_private.foreach_sub(a, b)] == [[-1.0, -4.0], [4.0]]
    assert [t.tolist() for t in torch_private.foreach_mul(a, b)] == [[2.0, -4.0], [-3.0]]
    assert [t.tolist() for t in torch_private.foreach_abs(b)] == [[2.0, 2.0], [1.0]]
    assert [t.item() for t in torch_private.foreach_norm(a)] == pytest.approx([5**0.5, 3.0])
    torch_private.foreach_add_(a, b)
    torch_private.foreach_lerp_(a, b, 0.5)
    torch_private.foreach_mul_(a, 2.0)
    assert [t.tolist() for t in a] == [[5.0, 2.0], [1.0]]
    torch_private.foreach_copy_(a, b)
    assert [t.tolist() for t in a] == [[2.0, 2.0], [-1.0]]
