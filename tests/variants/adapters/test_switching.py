"""What of the adapters acts on the model, and that whoever changes it for a while brings back what was found."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from tests.support.small_module import Biases, Top, X, out, tiny, train
from variants import AdaLoRA, DoRA, LoRA, VariantError, VeRA, attach
from variants.adapters.adapted_model import AdaptedModel

VARIANTS = [LoRA(r=4), DoRA(r=4), VeRA(r=4), AdaLoRA(init_r=4, target_r=2), Top()]


def two(variant, depth: int = 2) -> tuple[AdaptedModel, Tensor, dict[str, Tensor]]:
    """A model with adapters a and b, a active; the base's outputs and theirs."""
    base = out(tiny(depth=depth))
    adapted = attach(tiny(depth=depth), variant, name="a", head=[])
    outputs = {}
    for name in ("a", "b"):
        if name == "b":
            adapted.add("b", variant, 1)
        train(adapted, len(outputs) + 1)
        outputs[name] = out(adapted.model)
    adapted.switch("a")
    return adapted, base, outputs


# ---- disabled and what else acts for a while -----------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: type(v).__name__)
def test_disabled_restores_what_it_found(variant) -> None:
    """peft #3507, #3555, #3447 and Megatron-Bridge 1811, 5945: leaving the block turned on what had been off."""
    adapted, base, outputs = two(variant)
    model = adapted.model
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}

    def is_(expected: Tensor) -> bool:
        return torch.allclose(out(model), expected, atol=1e-5)

    with adapted.disabled():
        with adapted.disabled():
            assert is_(base)
        assert is_(base), "the outer block has not ended"
    assert torch.equal(out(model), outputs["a"])
    with pytest.raises(KeyError), adapted.disabled():
        raise KeyError
    assert torch.equal(out(model), outputs["a"])
    adapted.enable(False)
    with adapted.disabled():
        pass
    assert is_(base), "it was off before"
    adapted.enable()
    adapted.merge()
    with adapted.disabled():
        with adapted.disabled():
            pass
        assert is_(base)
    assert is_(outputs["a"]) and adapted.state.merged
    adapted.unmerge()
    assert torch.equal(out(model), outputs["a"])
    assert frozen == {name for name, p in model.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize("merged", [False, True])
def test_whatever_happens_inside(merged: bool) -> None:
    adapted, base, outputs = two(LoRA(r=4))
    if merged:
        adapted.merge()
    found = adapted.state
    acts = {
        "enable": lambda: adapted.enable(),
        "disable": lambda: adapted.enable(False),
        "merge": lambda: adapted.merge(),
        "deactivated and back": lambda: (adapted.deactivate(), adapted.switch("a")),
        "another added, and back": lambda: (adapted.add("c", LoRA(r=2)), adapted.switch("a"), adapted.delete("c")),
    }
    for what, act in acts.items():
        with adapted.disabled():
            act()
        assert adapted.state == found and torch.allclose(out(adapted.model), outputs["a"], atol=1e-5), what
    with adapted.disabled():
        adapted.switch("b")
        assert torch.equal(out(adapted.model), base), "the block is of whichever adapter is active"
    assert torch.equal(out(adapted.model), outputs["b"]), "and to switch is no state that it brings back"
    with adapted.disabled():
        adapted.delete("b")
    assert torch.equal(out(adapted.model), base)


def test_blocks_that_end_in_another_order() -> None:
    """Two generators that are read in turn, each in a block of its own."""
    adapted, base, outputs = two(LoRA(r=4))
    for found_on in (True, False):
        adapted.enable(found_on)
        expected = out(adapted.model)
        first, second, third = ExitStack(), ExitStack(), ExitStack()
        for block in (first, second, third):
            block.enter_context(adapted.disabled())
        first.close()
        assert torch.equal(out(adapted.model), base)
        third.close()
        assert torch.equal(out(adapted.model), base)
        second.close()
        assert torch.equal(out(adapted.model), expected)

    def read():
        with adapted.disabled():
            yield out(adapted.model)
            yield out(adapted.model)

    adapted.enable()
    one, other = read(), read()
    assert all(torch.equal(value, base) for pair in zip(one, other, strict=True) for value in pair)
    next(abandoned := read())
    abandoned.close()
    assert torch.equal(out(adapted.model), outputs["a"])


def test_off_is_kept_by_whoever_switches() -> None:
    adapted, base, outputs = two(LoRA(r=4))
    adapted.enable(False)
    for act in (lambda: adapted.switch("b"), lambda: (adapted.deactivate(), adapted.switch("b"))):
        act()
        assert torch.equal(out(adapted.model), base)
    adapted.enable()
    assert torch.equal(out(adapted.model), outputs["b"])
    adapted.enable(False)
    adapted.deactivate()
    adapted.enable()
    adapted.switch("a")
    assert torch.equal(out(adapted.model), outputs["a"])


def test_turning_off_what_is_merged() -> None:
    adapted, base, outputs = two(LoRA(r=4))
    adapted.merge()
    adapted.enable(False)
    assert torch.equal(out(adapted.model), base)
    adapted.enable()
    assert torch.equal(out(adapted.model), outputs["a"])


@pytest.mark.parametrize("act", ["nothing", "off", "merged"])
def test_mixed_batches_and_failures_restore_what_they_found(act: str) -> None:
    adapted, base, outputs = two(LoRA(r=4))
    {"nothing": lambda: None, "off": lambda: adapted.enable(False), "merged": adapted.merge}[act]()
    found, expected = adapted.state, out(adapted.model)
    with adapted.mixed(["a", "b", None, "b"]):
        mixed = out(adapted.model)
    assert torch.allclose(mixed[0], outputs["a"][0], atol=1e-5) and torch.allclose(mixed[2], base[2], atol=1e-5)
    assert adapted.state == found and torch.equal(out(adapted.model), expected)
    with pytest.raises(VariantError):
        adapted.add("c", LoRA(r=99))
    assert adapted.state == found and torch.equal(out(adapted.model), expected)
    with pytest.raises(VariantError), adapted.adding("c", LoRA(r=2)):
        raise VariantError("no")
    assert adapted.state == found and torch.equal(out(adapted.model), expected)
    with pytest.raises(VariantError):
        adapted.combine({"a": 1.0, "b": 1.0}, "c", rank=-1)
    assert adapted.state == found and torch.equal(out(adapted.model), expected)


def test_what_somebody_has_frozen_stays_so() -> None:
    adapted = attach(tiny(), Biases(), name="a")
    adapted.add("b", LoRA(r=2))
    adapted.switch("a")
    adapted.model.score.weight.requires_grad_(False)
    frozen = {name: p.requires_grad for name, p in adapted.model.named_parameters()}
    with adapted.mixed(["a", "b", None, "b"]):
        pass
    adapted.switch("b")
    assert adapted.model.score.weight.requires_grad
    adapted.switch("a")
    assert frozen == {name: p.requires_grad for name, p in adapted.model.named_parameters()}


def test_a_child_of_the_same_name_is_not_replaced() -> None:
    class Named(nn.Linear):
        def __init__(self) -> None:
            super().__init__(8, 8)
            self.adapter = nn.Linear(8, 8)

    with pytest.raises(VariantError, match="has a child of its own called adapter"):
        attach(nn.Sequential(Named()), LoRA(r=2, target="0"), head=[])


# ---- compiled code -----------------------------------------------------------------------------------------------


def run(compiled) -> Tensor:
    with torch.no_grad():
        return compiled(X)


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("in_place", [False, True], ids=["torch.compile", "model.compile"])
def test_attaching_behind_a_compiled_run(frozen: bool, in_place: bool) -> None:
    """pytorch #117758: compiled code does not look for hooks that come later."""
    torch._dynamo.reset()
    model = tiny(depth=1).requires_grad_(not frozen)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    if in_place:
        model.compile(backend="eager", fullgraph=True)
        compiled = model
    base = run(compiled)
    adapted = attach(model, LoRA(r=4, target="q"), head=[], name="a")
    train(adapted)
    a = run(compiled)
    assert not torch.allclose(a, base, atol=1e-3) and torch.allclose(a, _eager(model), atol=1e-5)
    adapted.deactivate()
    assert torch.allclose(run(compiled), base, atol=1e-5)
    adapted.add("b", LoRA(r=4, target="v"))  # maps that have had no hooks so far
    train(adapted)
    assert torch.allclose(run(compiled), _eager(model), atol=1e-5)
    assert not torch.allclose(run(compiled), base, atol=1e-3)


@torch.no_grad()
def _eager(model: nn.Module) -> Tensor:
    return type(model).forward(model.eval(), X)


@pytest.mark.slow
def test_switching_behind_compiled_runs() -> None:
    """diffusers #11408, PR 9453: stale results of compiled code."""
    torch._dynamo.reset()
    adapted, base, outputs = two(LoRA(r=4), depth=1)
    compiled = torch.compile(adapted.model, backend="eager")
    for _ in range(2):
        for name in ("b", "a"):
            adapted.switch(name)
            assert torch.allclose(run(compiled), outputs[name], atol=1e-5)
        with adapted.disabled():
            assert torch.allclose(run(compiled), base, atol=1e-5)
        adapted.merge()
        assert torch.allclose(run(compiled), outputs["a"], atol=1e-5)
        adapted.deactivate()
        assert torch.allclose(run(compiled), base, atol=1e-5)
        with adapted.mixed(["a", "b", None, "b"]):
            assert torch.allclose(run(compiled)[1], outputs["b"][1], atol=1e-5)
        assert torch.allclose(run(compiled), base, atol=1e-5)


@pytest.mark.slow
def test_switching_compiles_no_more_than_once_an_adapter() -> None:
    torch._dynamo.reset()
    adapted, base, outputs = two(LoRA(r=4), depth=1)
    counter = CompileCounter()
    compiled = torch.compile(adapted.model, backend=counter)
    for _ in range(5):
        for name in ("a", "b"):
            adapted.switch(name)
            assert torch.allclose(run(compiled), outputs[name], atol=1e-5)
        adapted.deactivate()
        assert torch.allclose(run(compiled), base, atol=1e-5)
    assert counter.frame_count <= 3


# ---- shared modules -----------------------------------------------------------------------------------------------


class Shared(nn.Module):
    """`a` and `b` are one module."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.a = nn.Linear(8, 8)
        self.b = self.a

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))


@pytest.mark.parametrize("variant", VARIANTS[:4], ids=lambda v: type(v).__name__)
def test_a_module_under_two_names_is_adapted_and_merged_once(variant) -> None:
    """adapters PR 488 (ALBERT's shared layers): one layer, one merge, one entry in the file."""
    adapted = attach(Shared(), type(variant)(**variant.options() | {"target": "a"}), head=[])
    train(adapted)
    x = torch.randn(4, 8)
    assert list(adapted.adapter.layers) == ["a"] and all(key.startswith("a.") for key in adapted.state_dict())
    before = adapted.model(x)
    twin = attach(Shared(), adapted.variant, head=[])
    twin.load_state_dict(adapted.state_dict())
    assert torch.equal(twin.model(x), before)
    adapted.merge()
    assert torch.allclose(adapted.model(x), before, atol=1e-5)
    adapted.unmerge()
    assert torch.equal(adapted.model(x), before)


# ---- what happens to a model while an adapter is merged or put aside ------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS[:4], ids=lambda v: type(v).__name__)
def test_values_that_are_loaded_into_a_merged_adapter_act(variant) -> None:
    """They went into layers that the merged weights had taken the place of: the outputs stayed the old ones."""
    adapted, _, outputs = two(variant)
    values = {key: tensor.clone() for key, tensor in adapted.state_dict().items()}
    train(adapted, 9)
    adapted.merge()
    adapted.load_state_dict(values)
    assert adapted.state.merged
    assert torch.allclose(out(adapted.model), outputs["a"], atol=1e-5)
    adapted.unmerge()
    assert torch.equal(out(adapted.model), outputs["a"])


def test_base_weights_are_not_loaded_into_merged_ones() -> None:
    """What was loaded lacked the adapter, and unmerge() brought the old base back, both without a word."""
    adapted, base, outputs = two(LoRA(r=4))
    other = {key: tensor + 1 for key, tensor in tiny().state_dict().items()}
    adapted.merge()
    with pytest.raises(VariantError, match=r"merged into .*weight: load base weights before, or within"):
        adapted.model.load_state_dict(other, strict=False)
    adapted.unmerge()
    assert torch.equal(out(adapted.model), outputs["a"])
    adapted.model.load_state_dict(other, strict=False)
    with adapted.disabled():
        assert not torch.allclose(out(adapted.model), base)


@torch.no_grad()
def test_a_variant_that_takes_its_first_update_off_follows_the_base() -> None:
    """torchtune #2129's kind, for PiSSA: the old base came back with the next switch, without a word."""
    other = {key: 1.3 * tensor + 0.02 for key, tensor in tiny().state_dict().items()}
    base = tiny()
    base.load_state_dict(other)
    for off in (AdaptedModel.disabled, lambda adapted: adapted.mixed([None])):
        adapted = attach(tiny(), Top(), head=[])
        with pytest.raises(VariantError, match=r"first update is taken off .*weight: load base weights before"):
            adapted.model.load_state_dict(other, strict=False)
        with off(adapted):
            adapted.model.load_state_dict(other, strict=False)
        assert torch.allclose(out(adapted.model), out(base), atol=1e-4), "it has learnt nothing yet"
        with adapted.disabled():
            assert torch.equal(out(adapted.model), out(base))
        train(adapted, 1)
        again = attach(tiny(), Top(), head=[])
        again.deactivate()
        again.model.load_state_dict(other)
        again.switch("default")
        again.model.load_state_dict(adapted.model.state_dict())  # as a trainer resumes
        assert torch.equal(out(again.model), out(adapted.model))
        again.deactivate()
        assert torch.equal(out(again.model), out(base))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: type(v).__name__)
@torch.no_grad()
def test_an_adapter_put_aside_follows_the_model_to_another_dtype(variant, dtype) -> None:
    """Layers of the active adapter alone are cast with the model; the others met inputs of another dtype."""
    adapted, _, outputs = two(variant)
    for now in (dtype, torch.float32):
        adapted.model.to(now)
        for name in ("b", "a"):
            adapted.switch(name)
            y = adapted.model(X.to(now))
            assert y.dtype == now and torch.allclose(y.float(), outputs[name], atol=0.1)
            with adapted.mixed([name] * len(X)):
                assert torch.allclose(adapted.model(X.to(now)), y, atol=0.1)
        if isinstance(variant, LoRA):
            adapted.combine({"a": 1.0, "b": 1.0}, f"sum-{now}", rank=2)
        adapted.switch("a")


def test_adapters_do_not_change_places_on_a_resized_model() -> None:
    """Halfway through a switch the sizes did not fit, and neither adapter was whole."""
    adapted = attach(tiny(), LoRA(r=4), head=["score.weight"])
    adapted.add("b", LoRA(r=4))
    adapted.model.score = nn.Linear(16, 7)
    before = out(adapted.model)
    for act in (lambda: adapted.switch("default"), adapted.deactivate, lambda: adapted.delete("b")):
        with pytest.raises(VariantError, match=r"score.weight is \(7, 16\) in the model, and .* as it was put aside"):
            act()
    assert adapted.active == "b" and torch.equal(out(adapted.model), before)


def test_a_refused_adapter_leaves_what_trained() -> None:
    """The model was frozen already when the adapter turned out not to fit."""
    model = tiny()
    model.score.weight.requires_grad_(False)
    found = {name: p.requires_grad for name, p in model.named_parameters()}
    with pytest.raises(VariantError, match="nowhere"):
        attach(model, LoRA(target="nowhere"))
    with pytest.raises(VariantError, match="at most 16"):
        attach(model, LoRA(r=99))
    assert found == {name: p.requires_grad for name, p in model.named_parameters()}
