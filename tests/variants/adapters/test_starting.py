"""An adapter that starts from another's values."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from variants import EVA, AdaLoRA, LoRA, LoRAGA, VariantError, attach
from variants.adapters.starting import start_from
from variants.contract.models import Tiny, TinyText, shift
from variants.formats.native import save_adapter
from variants.methods.lora import LoRALayer


class WithOffsetLayer(LoRALayer):
    """Its outputs depend on a buffer that data decides, as LoRA-GA's s(BA - B₀A₀)."""

    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.register_buffer("offset", torch.zeros(site.out_features))

    def forward(self, x, y):
        return super().forward(x, y) + self.offset


class WithOffset(LoRA):
    layer = WithOffsetLayer


def learnt(variant) -> tuple[dict[str, torch.Tensor], torch.nn.Module]:
    adapted = attach(Tiny().eval(), variant)
    for index, tensor in enumerate(adapted.state_dict().values()):
        shift(tensor, index)
    return {name: tensor.clone() for name, tensor in adapted.state_dict(trimmed=True).items()}, adapted.model


def test_buffers_that_outputs_depend_on_come_along() -> None:
    tensors, model = learnt(WithOffset(r=2))
    x = torch.randn(2, 3, 16)
    adapted = attach(Tiny().eval(), WithOffset(r=2), seed=5)
    start_from(adapted, tensors, "elsewhere")
    torch.testing.assert_close(adapted.model(x), model(x), rtol=0, atol=0)
    del tensors[next(name for name in tensors if name.endswith("offset"))]
    with pytest.raises(VariantError, match="cannot start from elsewhere: .*offset is not there in the shape"):
        start_from(attach(Tiny(), WithOffset(r=2)), tensors, "elsewhere")


@torch.no_grad()
@pytest.mark.parametrize("variant", [LoRAGA(r=2), EVA(r=2, target="all-linear")], ids=["lora_ga", "eva"])
def test_a_start_from_other_data_is_the_others(variant, tmp_path) -> None:
    """What was taken off the base there is taken off here, and ranks are those of there."""
    batches, models = list(TinyText().batches()), [TinyText().eval(), TinyText().eval()]
    handles = [attach(model, variant) for model in models]
    with torch.enable_grad():
        for adapted, given in zip(handles, (batches[:1], batches[1:]), strict=True):
            adapted.init_from_data(given)
    for index, tensor in enumerate(handles[0].state_dict().values()):
        shift(tensor, index)
    tensors = load_file(save_adapter(handles[0], tmp_path) / "adapter.safetensors")
    start_from(handles[1], tensors, "elsewhere")
    first, second = (model(batches[0]["input_ids"]).logits for model in models)
    torch.testing.assert_close(second, first, rtol=0, atol=1e-5)


def test_state_for_training_alone_starts_anew() -> None:
    tensors, _ = learnt(AdaLoRA(init_r=2, target_r=1))
    adapted = attach(Tiny(), AdaLoRA(init_r=2, target_r=1), seed=5)
    start_from(adapted, tensors | {f"{p}.kept": torch.zeros(2) for p in adapted.adapter.layers}, "elsewhere")
    layer = adapted.layers[0]
    assert layer.kept.tolist() == [1, 1] and not layer.lora_A_sensitivity.any()
    assert torch.equal(layer.lora_E, tensors[f"{layer.site.path}.lora_E"])
