"""Stacked adapters train as each alone does: hooks, and what differs between seeds."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import count

import pytest
import torch

from tests.support.models import MODELS, inputs
from variants import LoRA, PrefixEmbed, PrefixLayer, PrefixTuning, VariantError, attach
from variants.acceleration import accelerated
from variants.adapters.stack import Stack
from variants.contract.models import Tiny, shift
from variants.methods.bitfit import BitFit
from variants.methods.lora import LoRALayer
from variants.methods.prefix_embed import PrefixEmbedLayer


def of(start):
    """LoRA whose layers do something more when they are made."""

    class Layer(LoRALayer):
        def __init__(self, site, config, rng):
            super().__init__(site, config, rng)
            start(self)

    return type("Own", (LoRA,), {"__module__": __name__, "layer": Layer})(r=2)


def pair(variant):
    adapted = attach(Tiny().eval(), variant, 0, name="a")
    adapted.add("b", variant, 1)
    for index, name in enumerate("ab"):
        for number, tensor in enumerate(adapted.adapters[name].tensors().values()):
            shift(tensor, 10 * index + number)
    return adapted


def test_hooks_of_gradients_are_called_for_each() -> None:
    """They were dropped: the loss came out 2e-2 off under the id of the unstacked run."""
    adapted, x, alone = pair(of(lambda layer: layer.lora_A.register_hook(lambda g: 3 * g / g.norm()))), [], []
    x = torch.randn(4, 3, 16)
    for index, name in enumerate("ab"):
        adapted.switch(name)
        adapted.model.zero_grad()
        adapted.model(x[2 * index : 2 * index + 2]).square().sum().backward()
        alone.append({key: tensor.grad.clone() for key, tensor in adapted.trained().items()})
    stack = Stack(adapted, ["a", "b"])
    adapted.model(x).square().sum().backward()
    for key, tensor in stack.trained().items():
        for index in range(2):
            torch.testing.assert_close(tensor.grad[index], alone[index][key], rtol=1e-4, atol=1e-5)


class Halved(LoRA):
    """Puts other gradients in the place of those that it is given, none for A."""

    def before_step(self, layers, step, total_steps):
        for layer in layers:
            layer.lora_A.grad, layer.lora_B.grad = None, layer.lora_B.grad / 2


def test_gradients_that_a_hook_puts_in_their_place_count() -> None:
    stack = Stack(pair(Halved(r=2)), ["a", "b"])
    given = {name: torch.randn_like(parameter) for name, parameter in stack.named_parameters()}
    for name, parameter in stack.named_parameters():
        parameter.grad = given[name].clone()
    stack.before_step(1, 2)
    for name, parameter in stack.named_parameters():
        wanted = {"A": 0, "B": 0.5}.get(name[-1], 1) if "lora_" in name else 1
        assert torch.equal(parameter.grad, wanted * given[name]), name


class Off(LoRA):
    """LoRA that starts from an update of its seed's own, off the base."""

    class Layer(LoRALayer):
        def __init__(self, site, config, rng):
            super().__init__(site, config, rng)
            torch.nn.init.normal_(self.lora_B, generator=rng)

    layer = Layer
    subtract_initial = True


@pytest.mark.parametrize("entered", [lambda stack: nullcontext(), accelerated])
def test_each_first_update_is_off_the_base_of_its_own_adapter(entered) -> None:
    adapted, x, alone = pair(Off(r=2)), torch.randn(4, 3, 16), []
    for index, name in enumerate("ab"):
        adapted.switch(name)
        adapted.model.zero_grad()
        part = adapted.model(x[2 * index : 2 * index + 2])
        part.square().sum().backward()
        alone.append((part, {key: tensor.grad.clone() for key, tensor in adapted.trained().items()}))
    stack = Stack(adapted, ["a", "b"])
    with entered(stack):
        found = adapted.model(x)
    found.square().sum().backward()
    torch.testing.assert_close(found, torch.cat([part for part, _ in alone]), rtol=1e-4, atol=1e-5)
    for key, tensor in stack.trained().items():
        for index in range(2):
            torch.testing.assert_close(tensor.grad[index], alone[index][1][key], rtol=1e-4, atol=1e-4)
    with stack.alone(1) as handle:  # saved inside
        assert handle.base_values()["fingerprint"] == attach(Tiny().eval(), LoRA(r=2)).base_values()["fingerprint"]
    with pytest.raises(VariantError, match="its first update is off weights, whose inputs are not dropped"):
        Stack(pair(Off(r=2, dropout=0.1)), ["a", "b"])


NUMBER = count()


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (lambda layer: layer.register_forward_hook(lambda *_: None), "its layers have hooks of their own"),
        (lambda layer: layer.lora_A.register_post_accumulate_grad_hook(lambda p: None), "it has hooks that run after"),
        (lambda layer: setattr(layer, "scaling", 1 + next(NUMBER)), "scaling of .*q_proj differs between seeds"),
    ],
)
def test_what_stacking_would_lose_is_refused(start, says) -> None:
    with pytest.raises(VariantError, match=f"own cannot be stacked: {says}"):
        Stack(pair(of(start)), ["a", "b"])


@pytest.mark.parametrize("entered", [lambda stack: nullcontext(), accelerated], ids=["plain", "accelerated"])
@pytest.mark.parametrize("variant", [PrefixEmbed, PrefixLayer, PrefixTuning])
@pytest.mark.parametrize("name", ["roberta", "deberta-v2", "gpt2", "llama"])
def test_each_prefix_stands_in_the_rows_of_its_own_adapter(name, variant, entered) -> None:
    """Outputs, and gradients of what each trains, its head included; three adapters, and two rows of each, padded."""
    model, batch, alone = MODELS[name]().eval(), inputs(name, batch=6), []
    adapted = attach(model, variant(p=3, std=0.5), 0, name="a")
    for seed, each in enumerate("bc"):
        adapted.add(each, variant(p=3, std=0.5), seed + 1)
    for index, each in enumerate("abc"):
        adapted.switch(each)
        model.zero_grad()
        part = model(**{key: rows[2 * index : 2 * index + 2] for key, rows in batch.items()}).logits
        part.square().sum().backward()
        alone.append((part, {key: tensor.grad.clone() for key, tensor in adapted.trained().items()}))
    stack = Stack(adapted, list("abc"))
    with entered(stack):
        found = model(**batch).logits
    found.square().sum().backward()
    torch.testing.assert_close(found, torch.cat([part for part, _ in alone]), rtol=1e-5, atol=1e-5)
    for key, tensor in stack.trained().items():
        assert tensor.grad.any()
        torch.testing.assert_close(tensor.grad, torch.stack([own[key] for _, own in alone]), rtol=1e-4, atol=1e-5)


def test_another_way_to_change_the_length_is_refused() -> None:
    """No pass knows what of it differs between adapters."""

    class Layer(PrefixEmbedLayer):
        def lengthen(self, args, kwargs):
            return super().lengthen(args, kwargs)

    variant = type("Own", (PrefixEmbed,), {"__module__": __name__, "layer": Layer})(p=2)
    adapted = attach(MODELS["roberta"](), variant, 0, name="a")
    adapted.add("b", variant, 1)
    with pytest.raises(VariantError, match="own cannot be stacked: it changes the length of the sequence in a way of"):
        Stack(adapted, ["a", "b"])


def test_norms_of_groups_cannot_have_other_weights_for_each() -> None:
    """The pass failed within: a UNet's biases and norms, which BitFit and full fine-tuning train in place."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.GroupNorm(2, 4))
    adapted = attach(model, BitFit(), 0, name="a")
    adapted.add("b", BitFit(), 1)
    with pytest.raises(VariantError, match="bitfit cannot be stacked: PyTorch has no GroupNorm"):
        Stack(adapted, ["a", "b"])
