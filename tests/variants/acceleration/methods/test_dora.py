"""What DoRA's norms cost in an accelerated pass, and that they follow the base."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from variants import DoRA, attach
from variants.acceleration import accelerated

IN, OUT, ROWS = 24, 20, 9


def adapted(**options):
    """A map that is adapted and away from its start."""
    torch.manual_seed(0)
    handle = attach(nn.Sequential(nn.Linear(IN, OUT)), DoRA(target="0", **({"r": 4, "alpha": 6.0} | options)), head=[])
    with torch.no_grad():
        for parameter in handle.trained().values():
            parameter += 0.3 * torch.randn_like(parameter)
    return handle


class Shapes(TorchDispatchMode):
    """Shapes of all results."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not function.is_view:
            self.seen.add(tuple(result.shape))
        return result


def test_neither_product_nor_sum_is_formed():
    """No tensor of the weight's size is made, forward or backward, and W₀ meets the batch once."""
    handle = adapted()
    x = torch.randn(ROWS, IN, requires_grad=True)
    with accelerated(handle), Shapes() as shapes:
        handle.model(x).sum().backward()
    assert not shapes.seen & {(OUT, IN), (IN, OUT), (IN, IN)}
    r, base = 4, 2 * ROWS * IN * OUT
    branch = 2 * ROWS * r * (IN + OUT) + 2 * r * (OUT * IN + IN * r + r * OUT)  # BAx; W₀Aᵀ, AAᵀ, B(AAᵀ)
    for options, flops in (
        ({}, base + branch),
        ({"dropout": 0.5}, 2 * base + branch),
        ({"dropout": 0.5, "dropout_mode": "lora-only"}, base + branch),
    ):
        handle = adapted(**options)
        with FlopCounterMode(display=False) as counter, accelerated(handle):
            handle.model.train()(x)
        assert counter.get_total_flops() == flops, options


@pytest.mark.parametrize("how", ["in place", "data", "cast"])
def test_norms_follow_the_base(how):
    """Squares of the base weight's rows are kept between passes; another weight is another norm."""
    handle, x = adapted(), torch.randn(ROWS, IN)
    with accelerated(handle):
        handle.model(x)
    with torch.no_grad():
        if how == "in place":
            handle.model[0].weight.mul_(1.7)
        elif how == "data":
            handle.model[0].weight.data = torch.randn(OUT, IN)
        else:
            handle.model.double()
            x = x.double()
    expected = handle.model(x)
    with accelerated(handle):
        found = handle.model(x)
    assert (found - expected).abs().max() < 1e-5
