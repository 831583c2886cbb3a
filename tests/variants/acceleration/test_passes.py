"""Accelerated passes as a whole: gradient checkpointing through them, and copies of what is inside one."""

from __future__ import annotations

import copy
import io
import pickle
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.support.passes import IDS, adapted, distance, gpt2, roberta
from variants import AdaLoRA, DoRA, LoRA, VariantError, VeRA, attach
from variants.acceleration import accelerated
from variants.acceleration.basics.policy import for_graph
from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.stack import Stack
from variants.methods.delora import DeLoRA, DeLoRALayer

METHODS = {
    "lora": LoRA(r=3, target="all-linear"),
    "dora": DoRA(r=3),
    "vera": VeRA(r=5),
    "adalora": AdaLoRA(init_r=3, target_r=2),
}


def gradients(handle: AdaptedModel, graph: bool, inside: bool, prepared: bool = True) -> dict[str, Tensor]:
    """Of a training pass, whose backward pass is inside the accelerated block or behind it."""
    handle.model.train()
    for parameter in handle.trained().values():
        parameter.grad = None
    with ExitStack() as block:
        if prepared:
            block.enter_context(accelerated(handle))
            block.enter_context(for_graph(graph))
        loss = handle.model(input_ids=IDS).logits.float().square().mean()
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    return {name: p.grad for name, p in handle.trained().items()}


def without_dropout(handle: AdaptedModel) -> AdaptedModel:
    for module in handle.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return handle


@pytest.mark.parametrize("low", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("build", [roberta, gpt2])
@pytest.mark.parametrize("name", METHODS)
def test_gradient_checkpointing(name: str, build, low: bool) -> None:
    """peft #1142, #1745, microsoft/LoRA #120, transformers #23170, #42489: recomputed in the backward pass, which may
    be inside the accelerated block or behind its end. bf16 rounds either way: as near to fp32 as a plain pass."""
    plain = gradients(without_dropout(adapted(build, METHODS[name], low)), False, False, prepared=False)
    exact = gradients(without_dropout(adapted(build, METHODS[name], False)), False, False, prepared=False)
    limit = 0.02 if low else 1e-5
    near = 2 * distance(plain, exact) if low else limit
    for graph in (False, True):
        for reentrant in (False, True):
            for inside in (False, True):
                handle = without_dropout(adapted(build, METHODS[name], low))
                expected = gradients(handle, graph, inside)
                handle.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
                if reentrant:
                    handle.model.enable_input_require_grads()
                found = gradients(handle, graph, inside)
                where = (graph, reentrant, inside)
                assert all(gradient is not None for gradient in found.values()), where
                assert distance(found, expected) < limit and distance(found, exact) < near, where
                assert not [m for m in handle.model.modules() if "forward" in vars(m)], where


class Blocks(nn.Module):
    """Blocks that checkpoint by themselves, one region inside another."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        def pair(x: Tensor, first: int) -> Tensor:
            y = checkpoint(lambda x: self.maps[first](x).tanh(), x, use_reentrant=False)
            return self.maps[first + 1](nn.functional.dropout(y, 0.5)).tanh()

        for first in (0, 2):
            x = checkpoint(pair, x, first, use_reentrant=False)
        return x


def test_regions_in_regions_and_two_passes_at_once() -> None:
    """Dropout is drawn again as it was; a pass is gone through again inside another one's block."""
    torch.manual_seed(0)
    handle = attach(Blocks().double(), LoRA(r=3, target="all-linear"), head=[])
    for parameter in handle.trained().values():
        parameter.data.normal_()
    x = torch.randn(3, 8, dtype=torch.float64)

    def losses(prepared: bool) -> list[Tensor]:
        torch.manual_seed(1)
        found = []
        for _ in range(2):
            with ExitStack() as block:
                if prepared:
                    block.enter_context(accelerated(handle))
                    block.enter_context(for_graph())
                found.append(handle.model(x).square().sum())
                if len(found) == 2:
                    found[0].backward()  # the first pass, inside the block of the second
        found[1].backward()
        return [p.grad for p in handle.trained().values()]

    expected = losses(False)
    handle.model.zero_grad()
    assert all(torch.allclose(a, b, atol=1e-8) for a, b in zip(losses(True), expected, strict=True))


# ---- copies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_copied_inside_a_pass(name: str) -> None:
    """peft #854, #940: a copy would keep the functions and tensors that hold for the pass."""
    handle = adapted(roberta, METHODS[name], low=False)
    with accelerated(handle):
        for act in (copy.deepcopy, pickle.dumps, lambda of: torch.save(of, io.BytesIO())):
            for thing in (handle, handle.model):
                with pytest.raises(VariantError, match="cannot be copied or pickled"):
                    act(thing)
        state = handle.model.state_dict()
    assert state.keys() == handle.model.state_dict().keys()


@pytest.mark.parametrize("how", [copy.deepcopy, lambda handle: pickle.loads(pickle.dumps(handle))])
@pytest.mark.parametrize("name", METHODS)
def test_a_copy_has_a_pass_of_its_own(name: str, how) -> None:
    """peft #463: what is kept of frozen maps, norms and banks is of one handle."""

    def logits(of: AdaptedModel, prepared: bool) -> Tensor:
        with torch.no_grad(), ExitStack() as block:
            if prepared:
                block.enter_context(accelerated(of))
                block.enter_context(for_graph())
            return of.model.eval()(input_ids=IDS).logits

    handle = adapted(roberta, METHODS[name], low=False)
    before = logits(handle, True)
    twin = how(handle)
    assert torch.allclose(logits(twin, True), before, atol=1e-5)
    with torch.no_grad():
        for parameter in twin.model.parameters():
            parameter.mul_(1.5)
    assert torch.allclose(logits(twin, True), logits(twin, False), atol=1e-4)
    assert not torch.allclose(logits(twin, True), before, atol=1e-2)
    assert torch.equal(logits(handle, True), before)


# ---- what is kept of the base ----------------------------------------------------------------------------------


def graph_gradients(handle: AdaptedModel) -> dict[str, Tensor]:
    return gradients(without_dropout(handle), True, True)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("build", [roberta, gpt2])
def test_what_is_kept_of_the_base_follows_it(build, name: str) -> None:
    """DoRA's squares, joined maps and the list of frozen maps, when the base is loaded, written, cast or replaced."""

    def load(model: nn.Module) -> None:
        model.load_state_dict({k: t * 1.5 for k, t in model.state_dict().items() if "adapter" not in k}, strict=False)

    @torch.no_grad()
    def write(model: nn.Module) -> None:
        for key, parameter in model.named_parameters():
            if "adapter" not in key:
                parameter.mul_(1.5)

    def assign(model: nn.Module) -> None:
        scaled = {k: t * 1.5 for k, t in model.state_dict().items() if "adapter" not in k}
        model.load_state_dict(scaled, strict=False, assign=True)

    def one_map_in_double(model: nn.Module) -> None:
        for key, module in model.named_modules():
            if key.endswith("0.attention.self.key"):
                module.weight.data = module.weight.data * 1.5

    changes = [
        load,
        write,
        assign,
        one_map_in_double,
        lambda m: m.double(),
        lambda m: m.double().float().half().float(),
    ]
    for number, change in enumerate(changes):
        handle = adapted(build, METHODS[name], low=False)
        graph_gradients(handle)
        change(handle.model)
        expected = gradients(without_dropout(handle), False, True, prepared=False)
        assert distance(graph_gradients(handle), expected) < 1e-4, number


def test_maps_that_train_or_are_replaced_behind_the_first_pass() -> None:
    handle = adapted(roberta, LoRA(r=3), low=False)
    graph_gradients(handle)
    attention = handle.model.roberta.encoder.layer[0].attention.self
    attention.key.weight.requires_grad_(True)
    graph_gradients(handle)
    found = attention.key.weight.grad
    attention.key.weight.grad = None
    gradients(handle, False, True, prepared=False)
    assert torch.allclose(found, attention.key.weight.grad, atol=1e-6)
    attention.value.forward = lambda x: 2 * nn.Linear.forward(attention.value, x)
    expected = gradients(handle, False, True, prepared=False)
    assert distance(graph_gradients(handle), expected) < 1e-4


def test_weights_made_in_inference_mode() -> None:
    with torch.inference_mode():
        handle = attach(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), DoRA(r=2, target="0"), head=[])
        x = torch.randn(3, 8)
        for scale in (1.0, 3.0):
            handle.model[0].weight.mul_(scale)
            with accelerated(handle), for_graph():
                found = handle.model(x)
            assert torch.allclose(found, handle.model(x), atol=1e-5)


@pytest.mark.parametrize("build", [roberta, gpt2])
@pytest.mark.parametrize("stacked", [False, True], ids=["one", "stacked"])
def test_a_declared_update_is_made_once_for_each_site(build, stacked: bool, monkeypatch) -> None:
    """What makes it may cost more than its products: DeLoRA's norms. GPT-2's maps are slices, RoBERTa's whole."""
    model, made = build(), []
    handle = attach(model, DeLoRA(r=3), 0, name="0")
    if stacked:
        handle.add("1", DeLoRA(r=3), 1)
        handle = Stack(handle, ["0", "1"])
    low_rank = DeLoRALayer.low_rank
    rows = torch.cat([IDS, IDS]) if stacked else IDS
    with accelerated(handle):  # the first pass asks each layer whether it declares one
        model(input_ids=rows)
    monkeypatch.setattr(DeLoRALayer, "low_rank", lambda self: made.append(self.site.path) or low_rank(self))
    with accelerated(handle):
        model(input_ids=rows)
    assert sorted(made) == sorted(layer.site.path for layer in handle.layers)
