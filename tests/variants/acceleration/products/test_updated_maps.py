"""Frozen maps with their updates as one operation: autograd's numbers, and hardly anything kept."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from transformers import Phi3Config, Phi3ForCausalLM, Qwen2Config, Qwen2ForCausalLM

from tests.support.passes import IDS, adapted, distance, gpt2, llama, loss_and_gradients
from variants import AdaLoRA, DoRA, LoRA, VeRA, attach
from variants.acceleration import accelerated, passes
from variants.acceleration.basics import policy
from variants.acceleration.products import sources, updated_maps
from variants.layer import LowRank
from variants.methods.lora import LoRALayer

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
SIZES |= {"vocab_size": 100, "intermediate_size": 48, "pad_token_id": 0}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}


def phi3() -> nn.Module:
    return Phi3ForCausalLM(Phi3Config(**SIZES, **ENDS))


def qwen2() -> nn.Module:
    """Its maps to queries, keys and values have biases."""
    return Qwen2ForCausalLM(Qwen2Config(**SIZES))


class SquareLayer(LoRALayer):
    """LoRA with a trained matrix between its factors."""

    def __init__(self, site, config, *args, **kwargs) -> None:
        super().__init__(site, config, *args, **kwargs)
        self.between = nn.Parameter(torch.eye(config.r))

    def low_rank(self) -> LowRank:
        return super().low_rank()._replace(inner=self.between)


class Square(LoRA):
    layer = SquareLayer


class OuterLayer(LoRALayer):
    """LoRA with a trained gain of each output feature."""

    def __init__(self, site, config, *args, **kwargs) -> None:
        super().__init__(site, config, *args, **kwargs)
        self.gain = nn.Parameter(torch.ones(site.out_features))

    def low_rank(self) -> LowRank:
        return super().low_rank()._replace(outer=self.gain)


class Outer(LoRA):
    layer = OuterLayer


VARIANTS = {
    "lora": LoRA(r=4, alpha=6, target="all-linear"),
    "adalora": AdaLoRA(init_r=4, target_r=2, target="all-linear"),
    "vera": VeRA(r=8, target="all-linear"),
    "dora": DoRA(r=4, target="all-linear"),
    "a matrix inside": Square(r=4, target="all-linear"),
    "a vector outside": Outer(r=4, target="all-linear"),
}


@pytest.fixture(autouse=True)
def large(monkeypatch):
    """All inputs count as large; on a CPU LoRA's maps take another way (test_merged_weight.py)."""
    monkeypatch.setattr(policy, "LARGE", 0)
    monkeypatch.setattr(passes, "merged_weights", lambda layers: ())


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """How many maps each use of the operation had."""
    found, own = [], updated_maps._Updated.apply

    def counted(x, z, A, sites, *rest):
        found.append(len(sites))
        return own(x, z, A, sites, *rest)

    monkeypatch.setattr(updated_maps._Updated, "apply", counted)
    return found


def same(handle) -> None:
    (loss, gradients), (other, found) = loss_and_gradients(handle, False), loss_and_gradients(handle, True)
    assert other == pytest.approx(loss, rel=1e-6) and distance(found, gradients) < 1e-4


@pytest.mark.parametrize("name", VARIANTS)
def test_a_block_is_four_operations(name, calls):
    """Queries, keys and values; their output; gate and what it gates; the way down."""
    same(adapted(llama, VARIANTS[name], low=False))
    assert calls == 2 * [3, 1, 2, 1]


@pytest.mark.parametrize("name", ["lora", "dora", "adalora"])
def test_biases(name, calls):
    handle = adapted(qwen2, VARIANTS[name], low=False)
    assert handle.layers[0].site.bias() is not None
    with torch.no_grad():
        for layer in handle.layers:
            if layer.site.bias() is not None:
                layer.site.bias().normal_()
    same(handle)
    assert calls == 2 * [3, 1, 2, 1]


@pytest.mark.parametrize("variant", [LoRA, DoRA], ids=["lora", "dora"])
@pytest.mark.parametrize(("build", "target", "expected"), [(phi3, "q,v,up", [1, 1]), (gpt2, "q,v", [1])])
def test_slices_of_fused_maps(build, target, expected, variant, calls):
    """Each update is added to its own features; what needs a whole map with a base of its own does not take part."""
    same(adapted(build, variant(r=4, target=target), low=False))
    assert calls == (2 * expected if variant is LoRA else [])


@pytest.mark.parametrize(
    ("target", "expected"), [("q,v", [3]), ("k", [3]), ("up", [2]), ("o,down", [1, 1]), ("q,k,v,gate", [3, 2])]
)
def test_some_of_the_maps_are_adapted(target, expected, calls):
    same(adapted(llama, LoRA(r=4, target=target), low=False))
    assert calls == 2 * expected


def test_ranks_may_differ(calls):
    """As after AdaLoRA's `shrink`, or with a rank of each map."""
    handle = adapted(llama, AdaLoRA(init_r=4, target_r=2, target="all-linear"), low=False)
    with torch.no_grad():
        for number, layer in enumerate(handle.layers):
            layer.lora_E[: number % 3] = 0
            layer.kept[: number % 3] = 0
    handle.shrink()
    assert len({len(layer.low_rank().A) for layer in handle.layers}) > 1
    same(handle)
    assert calls == 2 * [3, 1, 2, 1]


def test_where_it_may_not_be(calls):
    """An adapter's own dropout, hooks on a layer, disabled adapters, seeds that are stacked: the usual way."""
    handle = adapted(llama, LoRA(r=4, dropout=0.5, target="all-linear"), low=False)
    loss_and_gradients(handle, True)
    assert calls == 2 * [3, 1, 2, 1]  # in evaluation nothing is dropped
    calls.clear()
    handle.model.train()
    found = []
    for prepared in (False, True):
        torch.manual_seed(0)
        found.append(loss_and_gradients(handle, prepared)[0])
    assert found[0] == pytest.approx(found[1], rel=1e-6) and not calls
    handle = adapted(llama, LoRA(r=4, target="all-linear"), low=False)
    with handle.disabled(), accelerated(handle):
        handle.model(input_ids=IDS)
    assert not calls


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_layers_with_hooks_of_their_own_are_called(name, calls):
    """Their maps take another way, all others this one."""
    handle = adapted(llama, VARIANTS[name], low=False)
    loss, _ = loss_and_gradients(handle, False)
    handle.layers[0].register_forward_hook(lambda layer, inputs, y: 2 * y)
    assert loss_and_gradients(handle, False)[0] != loss
    same(handle)
    assert calls == [1, 2, 1, 3, 1, 2, 1]


def test_a_method_with_a_forward_of_its_own_keeps_it(calls):
    class Doubled(LoRALayer):
        def forward(self, x, y):
            return super().forward(x, y) * 2

    class Variant(LoRA):
        layer = Doubled

    same(adapted(llama, Variant(r=4, target="all-linear"), low=False))
    assert not calls


def test_smaller_inputs_go_another_way(monkeypatch, calls):
    monkeypatch.setattr(policy, "LARGE", 2**30)
    with policy.for_graph():
        same(adapted(llama, LoRA(r=4, target="all-linear"), low=False))
    assert not calls


def of_maps(**options):
    """Three maps of one input with updates, away from their start, in double precision."""

    class Attention(nn.Module):
        class config:
            model_type = "llama"

        def __init__(self) -> None:
            super().__init__()
            self.self_attn = nn.Module()
            for role, width in zip("qkv", (8, 4, 6), strict=True):
                self.self_attn.add_module(f"{role}_proj", nn.Linear(6, width, bias=options.get("bias", False)))

        def forward(self, x):
            return torch.cat([module(x) for module in self.self_attn.children()], -1)

    torch.manual_seed(0)
    handle = attach(Attention().double(), LoRA(r=2, alpha=3, target=options.get("target", "q,k,v")), head=[])
    with torch.no_grad():
        for p in handle.trained().values():
            p.normal_()
    return handle


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("target", ["q,k,v", "k"])
def test_gradcheck(target, bias, calls):
    """Numerical derivatives of all factors and of the input, which is read by others too."""
    handle = of_maps(target=target, bias=bias)
    names = list(handle.trained())
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)

    def function(x, *values):
        places = {}
        for layer in handle.layers:
            places |= {id(p): (layer, name) for name, p in layer.named_parameters()}
        own = [places[id(handle.trained()[name])] for name in names]
        before = [layer._parameters.pop(name) for layer, name in own]
        for (layer, name), value in zip(own, values, strict=True):
            setattr(layer, name, value)
        try:
            with accelerated(handle):
                return handle.model(x), x * x.sum()
        finally:
            for (layer, name), parameter in zip(own, before, strict=True):
                delattr(layer, name)
                layer.register_parameter(name, parameter)

    values = [p.detach().clone().requires_grad_() for p in handle.trained().values()]
    assert torch.autograd.gradcheck(function, [x, *values])
    assert calls and set(calls) == {3}


def test_some_outputs_have_no_gradient(calls):
    """The maps whose output nobody uses get none, and the input's comes from the others."""
    handle, found = of_maps(), []
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    for fast in (False, True):
        with accelerated(handle) if fast else nullcontext():
            y = handle.model(x)[:, 8:12]  # of keys
        parts = {name: p for name, p in handle.trained().items() if "k_proj" in name}
        found.append(torch.autograd.grad(y.square().sum(), [x, *parts.values()], retain_graph=True))
        with accelerated(handle) if fast else nullcontext():
            keys = handle.model.self_attn.k_proj(x)
            if fast:
                handle.model.self_attn.q_proj(x)
        found[-1] += torch.autograd.grad(keys.square().sum(), [x, *parts.values()])
    assert calls and all(torch.allclose(a, b) for a, b in zip(*found, strict=True))


# ---- memory --------------------------------------------------------------------------------------------------------


class Kept:
    """Bytes that are saved for a backward pass, each memory once, parameters and what was there before apart."""

    def __init__(self, *known: torch.Tensor) -> None:
        self.known = {t.untyped_storage().data_ptr() for t in known}
        self.saved: dict[int, torch.Tensor] = {}

    def __enter__(self):
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda t: t)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.hooks.__exit__(*error)

    def _pack(self, tensor):
        place = tensor.untyped_storage().data_ptr()
        if place not in self.known:
            self.saved[place] = tensor
        return tensor

    @property
    def nbytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.saved.values())


@pytest.mark.parametrize("variant", [LoRA(r=2, target="0"), VeRA(r=4, target="0")], ids=["lora", "vera"])
def test_of_a_map_its_input_alone_is_kept(variant):
    """And of a frozen A not even that."""
    handle = attach(nn.Sequential(nn.Linear(64, 48)), variant, head=[])
    x = torch.randn(100, 64, requires_grad=True) * 1.0
    with Kept(*handle.model.parameters(), *handle.model.buffers()) as kept, accelerated(handle):
        handle.model(x).sum()
    large = [tensor for tensor in kept.saved.values() if tensor.nbytes >= x.nbytes // 2]
    assert [t.data_ptr() for t in large] == ([x.data_ptr()] if variant.name == "lora" else [])


def test_an_input_that_can_be_computed_again_is_not_kept():
    """Its source is, which somebody else keeps anyway; the gradients are those of the kept input."""
    handle = attach(nn.Sequential(nn.Linear(64, 48)), LoRA(r=2, target="0"), head=[])
    with torch.no_grad():
        handle.layers[0].lora_B.normal_()
    base, found = torch.randn(100, 64, requires_grad=True), []
    for says in (False, True):
        with Kept(*handle.model.parameters(), base) as kept, accelerated(handle):
            x = base.sigmoid()
            if says:
                sources.remember(x, torch.sigmoid, base)
            y = handle.model(x)
        own = [t.data_ptr() for t in kept.saved.values()]
        assert own.count(x.data_ptr()) == 1  # sigmoid's own
        kept.saved.pop(x.untyped_storage().data_ptr())
        assert kept.nbytes < x.nbytes // 2
        found.append(torch.autograd.grad(y.square().sum(), [base, *handle.trained().values()]))
    assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(*found, strict=True))


def test_a_step_keeps_less_than_a_plain_one():
    """Of a whole decoder, as counted by what autograd saves."""
    handle, sizes = adapted(llama, LoRA(r=2, target="all-linear"), low=False), []
    for fast in (False, True):
        kept = Kept(*handle.model.parameters(), *handle.model.buffers())
        with kept, accelerated(handle) if fast else nullcontext():
            handle.model(input_ids=IDS)
        sizes.append(kept.nbytes)
    assert sizes[1] < sizes[0]


class Products(TorchDispatchMode):
    """How often a weight's memory is multiplied by."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.place, self.count = weight.data_ptr(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "mm" in func.overloadpacket.__name__:
            self.count += any(isinstance(t, torch.Tensor) and t.data_ptr() == self.place for t in args)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("fast", [False, True])
def test_recomputation_ends_before_the_last_frozen_product(fast):
    """Nothing is kept behind it: once forward and once for the gradient of its input, where a plain pass has three."""
    torch.manual_seed(0)
    handle = attach(nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 8, bias=False)), LoRA(r=2, target="0,2"),
                    head=[])  # fmt: skip
    x = torch.randn(5, 8, requires_grad=True)
    with accelerated(handle) if fast else nullcontext(), Products(handle.model[2].weight) as products:
        checkpoint(handle.model, x, use_reentrant=False).sum().backward()
    assert products.count == (2 if fast else 3)


@pytest.mark.parametrize("name", ["lora", "dora"])
@pytest.mark.parametrize("behind", [False, True])
def test_gradient_checkpointing(name, behind, calls):
    """Blocks that are computed again give the same, also where the backward pass comes behind the accelerated one."""
    handle = adapted(llama, VARIANTS[name], low=False)
    loss, gradients = loss_and_gradients(handle, False)
    handle.model.train().gradient_checkpointing_enable({"use_reentrant": False})
    for p in handle.trained().values():
        p.grad = None
    with accelerated(handle):
        again = handle.model(input_ids=IDS, use_cache=False).logits.float().square().mean()
        if not behind:
            again.backward()
    if behind:
        again.backward()
    found = {n: p.grad for n, p in handle.trained().items()}
    assert again.item() == pytest.approx(loss, rel=1e-6) and distance(found, gradients) < 1e-4
    assert len(calls) > 8  # the blocks' own, and again


def test_bf16_is_no_further_off_than_plain_passes():
    handle = adapted(llama, LoRA(r=8, target="all-linear"), low=True)
    exact = adapted(llama, LoRA(r=8, target="all-linear"), low=False)
    exact.model.load_state_dict(handle.model.state_dict())
    _, expected = loss_and_gradients(exact, False)
    off = [distance(loss_and_gradients(handle, fast)[1], expected) for fast in (False, True)]
    assert off[1] < 2 * off[0] < 0.2


def test_notes_end_with_the_pass():
    handle = adapted(llama, LoRA(r=2, target="all-linear"), low=False)
    outputs = []
    handle.model.model.layers[0].mlp.down_proj.register_forward_hook(lambda m, args, y: outputs.append(y))
    with accelerated(handle):
        handle.model(input_ids=IDS)
        assert updated_maps.is_updated(outputs[0])
    assert not updated_maps.is_updated(outputs[0])
    x = torch.randn(2, 2)
    sources.remember(x, F.relu, x)
    assert sources.source_of(x).values is F.relu
    sources.forget()
    (kept,) = sources.source_of(x).kept
    assert kept is x and sources.source_of(x).values(kept) is x
