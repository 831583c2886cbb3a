"""Gradients in one tensor are what they are in many; two processes average them as their mean."""

import torch
import torch.distributed as dist
from torch import nn

from modules.acceleration.gradients import ALIGNMENT, FlatGradients


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(shape)) for shape in ((3, 5), (), (7,), (2, 1, 2))]


def test_views_hold_what_is_added_and_lie_where_kernels_want_them():
    trained = parameters()
    shared = [*trained, trained[0]]
    gradients = FlatGradients(shared)
    gradients.bind()
    assert [p.grad.shape for p in trained] == [p.shape for p in trained]
    starts = [p.grad.storage_offset() for p in trained]
    assert len({p.grad.untyped_storage().data_ptr() for p in trained}) == 1
    assert all(start % ALIGNMENT == 0 for start in starts) and len(set(starts)) == len(trained)
    found = [torch.full_like(p, k + 1.0) for k, p in enumerate(trained)]
    found[2] = None
    for _ in range(2):
        assert gradients.add(found) == [trained[2]]
    assert [p.grad.unique().tolist() for p in trained] == [[2.0], [4.0], [0.0], [8.0]]
    gradients.zero()
    assert not any(p.grad.any() for p in trained)


def test_each_dtype_has_a_tensor():
    trained = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, dtype=torch.bfloat16))]
    gradients = FlatGradients(trained)
    gradients.bind()
    assert [p.grad.dtype for p in trained] == [torch.float32, torch.bfloat16]


def test_average_is_the_mean_over_processes(monkeypatch):
    """A stand-in for the other process, whose gradients are three times ours."""
    trained = parameters()
    gradients = FlatGradients(trained)
    gradients.bind()
    gradients.add([torch.ones_like(p) for p in trained])
    gradients.average()  # alone
    assert all((p.grad == 1).all() for p in trained)
    sent = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: sent.append(tensor.mul_(4)))
    gradients.average()
    assert all((p.grad == 2).all() for p in trained) and len(sent) == 1
