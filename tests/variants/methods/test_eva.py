"""EVA against the singular vectors of what goes into each map."""

import pytest
import torch

from tests.support.models import MODELS, inputs
from tests.support.parity import off
from tests.variants.training.test_batches import batches
from variants import EVA, VariantError, attach, load
from variants.formats.native import save_adapter
from variants.training.batches import Batches


def stacked_inputs(adapted) -> dict[str, torch.Tensor]:
    each = list(Batches(adapted.model, adapted.layers, batches("roberta")).inputs())
    return {path: torch.cat([inputs[path] for inputs in each]) for path in each[0]}


def test_starts_from_the_directions_of_most_variance() -> None:
    model, batch = MODELS["roberta"](), inputs("roberta")
    before = model(**batch).logits.detach()
    adapted = attach(model, EVA(r=3, rho=1.0))
    given = stacked_inputs(adapted)
    adapted.init_from_data(batches("roberta"))
    assert torch.equal(model(**batch).logits, before)
    for layer in adapted.layers:
        V = torch.linalg.svd(given[layer.site.path], full_matrices=False)[2][:3]
        assert off(layer.lora_A.mT @ layer.lora_A, V.mT @ V) < 1e-4 and not layer.lora_B.any()


def test_ranks_go_to_where_they_explain_most(tmp_path) -> None:
    adapted = attach(MODELS["roberta"](), EVA(r=3, rho=2.0, target="all-linear"))
    given = stacked_inputs(adapted)
    adapted.init_from_data(batches("roberta"))
    ranks = {layer.site.path: len(layer.lora_A) for layer in adapted.layers}
    assert sum(ranks.values()) <= 3 * len(ranks) and max(ranks.values()) <= 6 and min(ranks.values()) >= 1
    assert len(set(ranks.values())) > 1
    shares = {path: torch.linalg.svdvals(x).square() / x.square().sum() for path, x in given.items()}
    inside = min(shares[path][r - 1].item() for path, r in ranks.items() if r > 1)
    beyond = max(shares[path][r].item() for path, r in ranks.items() if r < 6)
    assert inside > beyond - 1e-5, "none that is left out explains more than one that is taken"
    assert {layer.scaling for layer in adapted.layers} == {8 / 3}
    save_adapter(adapted, tmp_path)
    again = load(MODELS["roberta"](), tmp_path)
    assert [len(layer.lora_A) for layer in again.layers] == list(ranks.values())


def test_rho_is_at_least_one() -> None:
    with pytest.raises(VariantError, match="rho must be at least 1"):
        EVA(rho=0.5)
