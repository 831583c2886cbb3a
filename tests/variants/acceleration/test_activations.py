"""GELU's tanh form in one operation: where a model writes it out, and nowhere else."""

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from tests.support.models import MODELS, inputs
from variants import LoRA, attach
from variants.acceleration import accelerated
from variants.acceleration.activations import activations

pytestmark = pytest.mark.acceleration
WRITTEN_OUT = ("gelu_new", "gelu_fast", "gelu_python_tanh", "gelu_accurate", "gelu_pytorch_tanh")


class Acts(nn.Module):
    """A map, and every activation that transformers knows."""

    def __init__(self):
        super().__init__()
        self.q = nn.Linear(4, 4)
        self.acts = nn.ModuleDict({name: ACT2FN[name] for name in ACT2FN if name != "xielu"})

    def forward(self, x):
        return self.q(x)


def test_those_that_are_it_are_replaced_and_no_others():
    handle = attach(Acts(), LoRA(r=2, target="q"))
    replaced = {id(module) for module, _, _ in activations(handle)}
    assert {name for name, module in handle.model.acts.items() if id(module) in replaced} == set(WRITTEN_OUT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_values_and_gradients_are_those_of_the_model_s_own_code(name, dtype):
    handle = attach(Acts(), LoRA(r=2, target="q"))
    x = torch.linspace(-12, 12, 4001, dtype=dtype, requires_grad=True)
    own = handle.model.acts[name]
    expected = own(x)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    with accelerated(handle):
        found = own(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), x)[0], gradient, rtol=1e-4, atol=2e-6)


def test_gpt2_s_are_replaced_in_a_pass_alone_and_nobody_else_s_replacement_is():
    handle = attach(MODELS["gpt2"](), LoRA(r=2))
    acts = [module for path, module in handle.model.named_modules() if path.endswith("mlp.act")]
    seen = []
    acts[0].forward = lambda x: seen.append(x) or type(acts[0]).forward(acts[0], x)
    with accelerated(handle):
        assert "forward" in vars(acts[1])
        handle.model(**inputs("gpt2"))
    assert len(seen) == 1 and not any("forward" in vars(act) for act in acts[1:]) and len(acts) > 1
