"""What an adapter adds to each site, and how sites are named."""

from __future__ import annotations

import pytest
import torch

from modules.analysis.adapter_directions import block_and_kind, update
from tests.support.models import MODELS
from tests.support.tiny import Off, train
from variants import DoRA, LoRA, VeRA, attach


@pytest.mark.parametrize("variant", [LoRA(r=2), DoRA(r=2), VeRA(r=3), Off(r=2)], ids=lambda v: type(v).__name__)
def test_update_is_what_merging_adds_to_the_backbone(variant) -> None:
    adapted, plain = attach(MODELS["gpt2"](), variant), attach(MODELS["gpt2"](), LoRA())
    train(adapted.trained(), 0)
    adapter = adapted.adapter
    adapted.merge()
    merged = {path: layer.site.weight().detach().clone() for path, layer in adapter.layers.items()}
    adapted.deactivate()
    for layer in plain.layers:
        added = merged[layer.site.path] - layer.site.weight().detach()
        assert added.abs().max() > 0.01
        assert torch.allclose(update(adapter, layer.site.path), added, atol=1e-5)


def test_sites_are_named_by_block() -> None:
    assert block_and_kind("roberta.encoder.layer.3.attention.self.query") == (3, "attention.self.query")
    assert block_and_kind("transformer.h.11.attn.c_attn.q") == (11, "attn.c_attn.q")
    assert block_and_kind("proj") == (0, "proj")
