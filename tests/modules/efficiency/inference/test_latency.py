"""Inference latency: that every way computes what it says, and the paper's figures beside ours."""

from __future__ import annotations

import pytest
import torch
import yaml

from modules.efficiency.inference import latency as inference_latency
from tests.support.models import MODELS, inputs
from variants import AdapterL, LoRA


@torch.no_grad()
def test_each_way_computes_what_it_says() -> None:
    plain = MODELS["roberta"]().requires_grad_(False)
    batch, before = inputs("roberta"), {k: t.clone() for k, t in plain.state_dict().items()}
    models, sizes = inference_latency.adapted_models(plain, {"lora": LoRA(r=2), "adapter_l": AdapterL(r=3)})
    assert list(models) == ["plain", "plain, a copy", "lora merged", "lora", "adapter_l"]
    out = {name: model(**batch).logits for name, model in models.items()}
    assert torch.equal(out["plain"], out["plain, a copy"])
    assert torch.allclose(out["lora merged"], out["lora"], atol=1e-5)
    assert all((out[name] - out["plain"]).abs().max() > 1e-4 for name in ("lora", "lora merged", "adapter_l"))
    assert all(torch.equal(tensor, before[k]) for k, tensor in plain.state_dict().items()), (
        "the plain model is as it was"
    )
    weights = [model.get_input_embeddings().weight.data_ptr() for model in (plain, models["lora"], models["adapter_l"])]
    assert len(set(weights)) == 1, "unmerged ways share the plain model's memory"
    assert sizes["lora"] == {"parameters": 2 * 2 * 2 * (16 + 16), "r": 2}


def test_the_paper_figures_give_its_slowdowns() -> None:
    paper = yaml.safe_load(inference_latency.PUBLISHED.read_text(encoding="utf-8"))
    for column, setting in enumerate(paper["settings"]):
        found = inference_latency.published("gpt2-medium", setting)
        assert found["lora merged"] == 1
        for row in paper["rows"][1:]:
            assert 100 * (found[row["way"]] - 1) == pytest.approx(row["slowdown"][column], abs=0.05)
    assert inference_latency.published("roberta-base", paper["settings"][0]) == {}
    assert inference_latency.published("gpt2-medium", {"batch": 1, "length": 128, "parameters": "0.5M"}) == {}
