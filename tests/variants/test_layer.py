"""What a layer computes that says so in two of the three ways: the way of the subclass counts."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from variants import AdapterLayer, BaseVariant, LoRA, Variant, VariantError, attach
from variants.contract.models import Tiny, shift
from variants.layer import LowRank
from variants.methods.lora import LoRALayer


class DoubledLayer(LoRALayer):
    def delta_weight(self):
        return 2 * super().delta_weight()


@dataclass
class Doubled(LoRA):
    layer = DoubledLayer


class NoneLayer(LoRALayer):
    def low_rank(self):
        return None

    def delta_weight(self):
        return self.lora_B @ self.lora_A


@dataclass
class NoProduct(LoRA):
    layer = NoneLayer


def trained(variant):
    adapted = attach(Tiny().eval(), variant)
    for index, tensor in enumerate(adapted.trained().values()):
        shift(tensor, index)
    return adapted


@pytest.mark.parametrize("variant", [Doubled(r=2), NoProduct(r=2)])
def test_an_update_written_over_a_declared_one_is_what_trains(variant) -> None:
    """A LoRALayer with a delta_weight of its own trained as plain LoRA, and merged as another."""
    adapted, x = trained(variant), torch.randn(2, 3, 16)
    layer = adapted.layers[0]
    y = torch.randn(2, 3, 16)
    torch.testing.assert_close(layer(x, y), y + F.linear(x, layer.delta_weight()))
    assert not layer.adds_low_rank and LoRALayer.declares_low_rank
    assert adapted.merge() < 1e-5
    adapted.unmerge()
    accelerated = pytest.importorskip("variants.acceleration").accelerated
    plain = adapted.model(x)
    with accelerated(adapted):
        torch.testing.assert_close(adapted.model(x), plain)


def test_who_writes_last_declares() -> None:
    class Again(DoubledLayer):
        def low_rank(self):
            return LowRank(self.lora_A, self.lora_B)

    class Further(Again):
        pass

    assert Further.declares_low_rank and not DoubledLayer.declares_low_rank and AdapterLayer.declares_low_rank


def test_dropout_drops_inputs_of_any_update() -> None:
    torch.manual_seed(0)
    layer = trained(Doubled(r=2, dropout=0.5)).layers[0].train()
    x, y = torch.ones(4, 16), torch.zeros(4, 16)
    assert not torch.equal(layer(x, y), layer.eval()(x, y))


def test_hooks_of_a_layer_are_called_in_accelerated_passes() -> None:
    accelerated, seen = pytest.importorskip("variants.acceleration").accelerated, []
    adapted = trained(LoRA(r=2))
    for layer in adapted.layers:
        layer.register_forward_hook(lambda *_: seen.append(1))
    with accelerated(adapted):
        adapted.model(torch.randn(2, 3, 16))
    assert len(seen) == len(adapted.layers)


class RotationLayer(AdapterLayer):
    """OFT's Cayley transform, which no 16-bit number has on a CPU (arXiv 2306.07280)."""

    def __init__(self, site, config, rng):
        super().__init__(site, config)
        self.skew = nn.Parameter(torch.zeros(site.out_features, site.out_features))

    def delta_weight(self):
        skew = self.skew - self.skew.T
        eye = torch.eye(len(skew), device=skew.device, dtype=skew.dtype)
        rotation = torch.linalg.solve(eye + skew, eye - skew)
        return (rotation - eye) @ self.site.weight().to(skew.dtype)


@dataclass
class Rotation(Variant):
    layer = RotationLayer


def test_matrices_that_are_no_factors_keep_their_digits_over_a_bf16_base() -> None:
    """Accelerated passes rounded every matrix of a layer, so that OFT held in the checker and crashed in training."""
    accelerated = pytest.importorskip("variants.acceleration").accelerated
    adapted, x = attach(Tiny().bfloat16(), Rotation()), torch.randn(2, 3, 16).bfloat16()
    for tensor in adapted.trained().values():
        shift(tensor, 1, 0.05)
    plain = adapted.model(x)
    with accelerated(adapted):
        output = adapted.model(x)
    torch.testing.assert_close(output, plain)
    output.sum().backward()
    assert adapted.layers[0].skew.grad.dtype == torch.float32


def test_a_layer_without_a_place_is_refused() -> None:
    """It trained the head alone, and nothing said so."""

    @dataclass
    class Nowhere(BaseVariant):
        layer = LoRALayer

    with pytest.raises(VariantError, match="Nowhere has a layer and no sites for it: subclass variants.Variant"):
        attach(Tiny(), Nowhere())
