"""How layers meet the model: odd calls, nested tensors, and what is known of the modules that a pass calls."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from tests.support.small_module import X, out, tiny, train
from variants import AdaLoRA, DoRA, LoRA, VeRA, attach
from variants.acceleration import accelerated
from variants.acceleration.basics.policy import for_graph
from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.stack import Stack

METHODS = {"lora": LoRA(r=3), "dora": DoRA(r=3), "vera": VeRA(r=5), "adalora": AdaLoRA(init_r=3, target_r=2)}
PASSES = {
    "plain": lambda handle: nullcontext(),
    "accelerated": accelerated,
    "graph": lambda handle: _for_graph(handle),
}


class _for_graph:
    """An accelerated pass as a CUDA graph is to have it."""

    def __init__(self, handle: AdaptedModel) -> None:
        self.contexts = accelerated(handle), for_graph()

    def __enter__(self) -> None:
        for context in self.contexts:
            context.__enter__()

    def __exit__(self, *error: object) -> None:
        for context in reversed(self.contexts):
            context.__exit__(*error)


class Called(nn.Module):
    """A map, and how it is called."""

    def __init__(self, call: Callable[[nn.Module, Tensor], Tensor] = lambda lin, x: lin(x)) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.lin = nn.Linear(8, 6)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.lin, x)


def adapted_and_plain(variant, build: Callable[[], nn.Module], target: str) -> tuple[AdaptedModel, nn.Module]:
    """A model with a trained adapter, and a plain one with the same updates in its weights."""
    handle, plain = attach(build(), type(variant)(**variant.options() | {"target": target}), head=[]), build()
    train(handle)
    with torch.no_grad():
        for path, layer in handle.adapter.layers.items():
            plain.get_submodule(path).weight.add_(layer.delta_weight())
    return handle, plain


CALLS = {
    "by name": lambda lin, x: lin(input=x),
    "written to": lambda lin, x: lin(x).mul_(2),
    "twice": lambda lin, x: lin(x) + lin(x.flip(0)),
}
INPUTS = {
    "one vector": (8,),
    "no rows": (0, 8),
    "no rows of several tokens": (0, 5, 8),
    "four dimensions": (2, 3, 4, 8),
}


@pytest.mark.parametrize("how", PASSES)
@pytest.mark.parametrize("name", METHODS)
def test_odd_calls_and_inputs(name: str, how: str) -> None:
    """sliders #27, peft #879: calls by keyword; besides them vectors, no rows, strided and expanded inputs."""
    rng = torch.Generator().manual_seed(1)
    calls = {key: (call, torch.randn(3, 8, generator=rng)) for key, call in CALLS.items()}
    calls |= {key: (lambda lin, x: lin(x), torch.randn(shape, generator=rng)) for key, shape in INPUTS.items()}
    calls["strided"] = lambda lin, x: lin(x), torch.randn(8, 5, generator=rng).t()
    calls["expanded"] = lambda lin, x: lin(x), torch.randn(1, 8, generator=rng).expand(4, 8)
    for key, (call, x) in calls.items():
        handle, plain = adapted_and_plain(METHODS[name], lambda call=call: Called(call), "lin")
        for grad in (True, False):
            with torch.set_grad_enabled(grad), PASSES[how](handle):
                found = handle.model(x)
            expected = plain(x)
            assert found.shape == expected.shape and torch.allclose(found, expected, atol=1e-5), (key, grad)
            if grad:
                found.square().sum().backward()
                assert all(p.grad is not None for p in handle.trained().values()), key


def encoder() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True)
        model = nn.TransformerEncoder(block, 2)
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("how", PASSES)
@pytest.mark.parametrize("name", METHODS)
def test_nested_tensors_of_a_padded_encoder(name: str, how: str) -> None:
    """pytorch #128413: nn.TransformerEncoder leaves padding out as nested tensors."""
    handle, plain = adapted_and_plain(METHODS[name], encoder, "linear1,linear2")
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        with PASSES[how](handle):
            found = handle.model(x, src_key_padding_mask=mask)
        expected = plain(x, src_key_padding_mask=mask)
    assert torch.allclose(found[~mask], expected[~mask], atol=1e-5)


# ---- what a pass calls ----------------------------------------------------------------------------------------


class Fused(nn.Module):
    """`b` is read and never called, as the output map of PyTorch's attention is; `c` gets what a router sends it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor, routed: bool = False) -> Tensor:
        y = nn.functional.linear(self.a(x), self.b.weight, self.b.bias)
        return self.c(y) if routed else y


@pytest.mark.parametrize("how", PASSES)
def test_layers_that_no_pass_calls_are_named(how: str) -> None:
    handle = attach(Fused(), LoRA(r=2, target="a,b,c"), head=[], name="one")
    x = torch.randn(3, 8)
    assert handle.uncalled() == ["a", "b", "c"]
    with PASSES[how](handle):
        handle.model(x)
        assert handle.uncalled() == ["b", "c"]
        handle.model(x, routed=True)
    assert handle.uncalled() == ["b"]
    handle.add("two", LoRA(r=2, target="b"))
    assert handle.uncalled() == ["b"], "another adapter starts anew"
    handle.model(x)
    handle.deactivate()
    assert handle.uncalled() == []


def test_a_stack_names_them_too() -> None:
    handle = attach(Fused(), LoRA(r=2, target="a,b"), head=[], name="one")
    handle.add("two", LoRA(r=2, target="a,b"), 1)
    stack = Stack(handle, ["one", "two"])
    assert stack.uncalled() == ["a", "b"]
    handle.model(torch.randn(4, 8))
    assert stack.uncalled() == ["b"]


@pytest.mark.slow
def test_noting_calls_compiles_nothing_anew() -> None:
    torch._dynamo.reset()
    handle, counter = attach(tiny(), LoRA(r=4)), CompileCounter()
    compiled = torch.compile(handle.model, backend=counter, fullgraph=True)
    assert handle.uncalled()
    for _ in range(3):
        compiled(X)
    assert counter.frame_count == 1 and not handle.uncalled()
    out(handle.model)
    compiled(X)
    assert counter.frame_count == 1
