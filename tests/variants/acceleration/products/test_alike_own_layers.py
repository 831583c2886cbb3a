"""Layers of one's own in a pass that makes updates for all layers at once: odd ones are left alone."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from tests.support.alike import alone, gradients
from tests.support.passes import adapted, distance, roberta
from variants import DeLoRA
from variants.methods.delora import DeLoRALayer


class Keeps(DeLoRALayer):
    """Leaves something for later."""

    def low_rank(self):
        """And says so nowhere."""
        self.kept = self.A.square().sum()
        return super().low_rank()


class Draws(DeLoRALayer):
    """Another factor each time."""

    def low_rank(self):
        """Noise of 0 size, so that results compare."""
        return super().low_rank()._replace(B=self.B + 0 * torch.randn(()))


class Asks(DeLoRALayer):
    """Goes by a value."""

    def low_rank(self):
        """Either way."""
        update = super().low_rank()
        return update if self.B.sum() > 1e9 else update._replace(B=2 * self.B)


class Hides(DeLoRALayer):
    """Tensors where no one looks for them, others in each layer."""

    def __init__(self, site, config, rng) -> None:
        super().__init__(site, config, rng)
        self.hidden = [torch.ones(2000)]  # whose text is that of the ends
        self.hidden[0][1000] += torch.rand((), generator=rng)

    def low_rank(self):
        """With it."""
        return super().low_rank()._replace(B=self.B * self.hidden[0][1000])


class Counts(DeLoRALayer):
    """A number, another one in each layer."""

    def __init__(self, site, config, rng) -> None:
        super().__init__(site, config, rng)
        self.number = float(torch.rand(1, generator=rng)) + 1

    def low_rank(self):
        """With it."""
        return super().low_rank()._replace(B=self.B * self.number)


class Places(DeLoRALayer):
    """Goes by its place, and would do without."""

    def low_rank(self):
        """Twice as much in one block."""
        return super().low_rank()._replace(B=self.B * (1 + ("layer.1" in getattr(self.site, "path", ""))))


class Options(DeLoRALayer):
    """Goes by an option whose text is that of the ends."""

    def low_rank(self):
        """With it."""
        return super().low_rank()._replace(B=self.B * self.config.table[1000])


@dataclass
class Tables(DeLoRA):
    """Another one in each block."""

    table: Tensor | None = None
    layer = Options


def of(layer_class: type) -> DeLoRA:
    @dataclass
    class Own(DeLoRA):
        layer = layer_class

    return Own(r=3)


@pytest.mark.parametrize("layer_class", [Keeps, Draws, Asks, Hides, Counts, Places])
def test_what_is_left_alone(layer_class: type, monkeypatch) -> None:
    """Layers that keep, draw or ask something, or that differ in more than their tensors; twice, as in a capture."""
    handle = adapted(roberta, of(layer_class), False)
    own = alone(handle, monkeypatch)
    for _ in range(2):
        found, made, _ = gradients(handle, True)
        assert not made and distance(found, own) < 1e-6
    assert layer_class is not Keeps or all(layer.kept.grad_fn is not None for layer in handle.layers)


def test_options_whose_text_is_the_same(monkeypatch) -> None:
    tables = [torch.ones(2000), torch.ones(2000)]
    tables[1][1000] = 3
    variant = Tables(r=3, table=tables[0], per_layer={"*.layer.1.*": {"table": tables[1]}})
    handle = adapted(roberta, variant, False)
    own = alone(handle, monkeypatch)
    assert distance(gradients(handle, True)[0], own) < 1e-6


class Notes(DeLoRALayer):
    """Counts how often it is asked: in a tensor, in another tensor each time, or in a list."""

    def __init__(self, site, config, rng) -> None:
        super().__init__(site, config, rng)
        self.register_buffer("asked", torch.zeros(()))
        self.notes: list[int] = []


class InPlace(Notes):
    """Changes a tensor."""

    def low_rank(self):
        """Asked once more."""
        self.asked.add_(1)
        return super().low_rank()


class Anew(Notes):
    """Has another tensor under the same name."""

    def low_rank(self):
        """Asked once more."""
        self.asked = self.asked + 1
        return super().low_rank()


class Lists(Notes):
    """Changes a list."""

    def low_rank(self):
        """Asked once more."""
        self.notes.append(1)
        return super().low_rank()


@pytest.mark.parametrize("layer_class", [InPlace, Anew, Lists])
def test_what_a_layer_notes_when_asked_is_there_and_once(layer_class: type, monkeypatch) -> None:
    counts = []
    for together in (True, False):
        handle = adapted(roberta, of(layer_class), False)
        with monkeypatch.context() as patch:
            if not together:
                patch.setattr("variants.acceleration.passes.made_together", lambda handle: ())
            assert all(not gradients(handle, True)[1] for _ in range(2))
        counts.append([int(layer.asked) + len(layer.notes) for layer in handle.layers])
    assert counts[0] == counts[1] and min(counts[0]) >= 2


class ReadsAll(DeLoRALayer):
    """Asks for its parameters as a module is asked for them."""

    def low_rank(self):
        """Times the sum of their squares."""
        return super().low_rank()._replace(B=self.B * sum(p.square().sum() for p in self.parameters()))


def test_parameters_are_those_of_each_layer(monkeypatch) -> None:
    handle = adapted(roberta, of(ReadsAll), False)
    own = alone(handle, monkeypatch)
    found, made, _ = gradients(handle, True)
    assert made and distance(found, own) < 1e-5


class Nets(DeLoRALayer):
    """Has a module."""

    def __init__(self, site, config, rng) -> None:
        super().__init__(site, config, rng)
        self.net = nn.Linear(config.r, config.r, bias=False)

    def low_rank(self):
        """Through it."""
        return super().low_rank()._replace(B=self.net(self.B))


@pytest.mark.parametrize("number", [0, -1])
def test_a_hook_on_a_module_of_one_layer_is_called_for_that_layer(number: int, monkeypatch) -> None:
    handle = adapted(roberta, of(Nets), False)
    handle.layers[number].net.register_forward_hook(lambda module, inputs, output: 3 * output)
    own = alone(handle, monkeypatch)
    found, made, _ = gradients(handle, True)
    assert made and distance(found, own) < 1e-5
