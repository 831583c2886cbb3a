"""AdaLoRA's batched updates: few operations, and those that the method's own functions come to."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.models import MODELS
from variants import AdaLoRA, attach
from variants.acceleration import accelerated_updates
from variants.methods.adalora import FACTORS

SMALL = {"init_r": 6, "target_r": 2}


def draw_gradients(adapted) -> None:
    torch.manual_seed(0)
    for layer in adapted.layers:
        for name in FACTORS:
            factor = getattr(layer, name)
            factor.grad = torch.randn_like(factor)


class Launches(TorchDispatchMode):
    """Counts operators, views aside: what a GPU would be asked to do."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view and "detach" not in str(function)
        return function(*args, **(kwargs or {}))


def test_launches_do_not_grow_with_the_layers():
    """Importance, allocation, masking and the penalty's forward are batched: twice the layers, the same operators."""
    counts = []
    for depth in (2, 4):
        adapted = attach(MODELS["roberta"](num_hidden_layers=depth), AdaLoRA(**SMALL, tinit=1, tfinal=2))
        draw_gradients(adapted)
        found = []
        for step in (1, 2, 8, 9):  # warm-up, allocation, the last one, final phase
            with accelerated_updates(adapted), Launches() as launches:
                adapted.after_step(step, 10)
            found.append(launches.count)
        with accelerated_updates(adapted), Launches() as launches:
            adapted.penalty(1, 1)
        counts.append([*found, launches.count])
    assert counts[0] == counts[1] and max(counts[0]) < 70, counts


@pytest.mark.parametrize("target", ["q,v", "all-linear"])
def test_updates_are_the_methods_own(target):
    """Ten steps of importance, allocation and pruning, over sites of one and of several shapes; the same penalty."""
    handles = [attach(MODELS["roberta"](), AdaLoRA(**SMALL, tinit=1, tfinal=2, target=target)) for _ in range(2)]
    for step in range(1, 11):
        for handle in handles:
            draw_gradients(handle)
            for name in FACTORS if step in (4, 5) else ():  # as if no pass had reached the layer
                getattr(handle.layers[1], name).grad = None
        handles[0].after_step(step, 10)
        with accelerated_updates(handles[1]):
            handles[1].after_step(step, 10)
            penalty = handles[1].penalty(step, 10)
        assert (penalty - handles[0].penalty(step, 10)).abs() < 1e-6
    states = [handle.adapter.tensors() for handle in handles]
    assert states[0].keys() == states[1].keys()
    assert all((states[0][name] - states[1][name]).abs().max() < 1e-6 for name in states[0])
    assert not vars(handles[1].variant).keys() - vars(handles[0].variant).keys()
