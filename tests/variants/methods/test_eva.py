"""EVA against the singular vectors of what goes into each map, and against PEFT's own initialisation.

PEFT takes the mean off the inputs (principal components), and ours are the singular vectors of the inputs as they are;
of inputs that come with their negatives both are the same. PEFT may leave a map without any rank, where each has at
least one here.
"""

import peft
import pytest
import torch
from torch import nn

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
    model, batch = MODELS["roberta"]().double(), inputs("roberta")
    before = model(**batch).logits.detach()
    adapted = attach(model, EVA(r=3, rho=1.0))
    given = stacked_inputs(adapted)
    adapted.init_from_data(batches("roberta"))
    assert torch.equal(model(**batch).logits, before)
    for layer in adapted.layers:
        V = torch.linalg.svd(given[layer.site.path], full_matrices=False)[2][:3]
        assert off(layer.lora_A.mT @ layer.lora_A, V.mT @ V) < 1e-9 and not layer.lora_B.any()


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


class Chain(nn.Module):
    """Maps whose inputs have the mean 0 where the first one's have it: all between is odd. The last one's vary in fewer
    directions than the others'."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = (nn.Linear(16, out, bias=False) for out in (16, 16, 12))
        self.second.weight.data *= 0.7 ** torch.arange(16)[:, None]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.third(torch.tanh(self.second(torch.tanh(self.first(input)))))


def spread(tokens: int, ratio: float) -> torch.Tensor:
    """Inputs (tokens, 16), each with its negative; each side is larger than the one before by the ratio."""
    half = torch.randn(tokens // 2, 16, generator=torch.Generator().manual_seed(1)) * ratio ** torch.arange(16)
    return torch.cat([half, -half]) / ratio**8


@pytest.mark.parametrize(("r", "rho"), [(8, 1.0), (4, 2.0)])
def test_starts_as_peft_does(r, rho) -> None:
    """The same ranks, subspaces and scaling. PEFT decomposes by 2·r·rho random directions: here these are all 16."""
    given = [spread(200, 1.3), 0.7 * spread(120, 1.3)]
    options = {"init_lora_weights": "eva", "eva_config": peft.EvaConfig(rho=rho, tau=1 - 1e-6)}
    config = peft.LoraConfig(r=r, lora_alpha=6, target_modules=["first", "second", "third"], **options)
    theirs = peft.get_peft_model(Chain(), config)
    whole = [torch.cat(given)]  # PEFT goes through its batches until what it has found stays
    peft.initialize_lora_eva_weights(
        theirs, whole, forward_fn=lambda model, x: model(x), prepare_model_inputs_fn=None,
        prepare_layer_inputs_fn=None, show_progress_bar=False,
    )  # fmt: skip
    adapted = attach(Chain(), EVA(r=r, alpha=6.0, rho=rho, target="first,second,third"))
    adapted.init_from_data([{"input": x} for x in given])
    ranks = []
    for layer in adapted.layers:
        module = theirs.base_model.model.get_submodule(layer.site.path)
        A = module.lora_A.default.weight
        ranks.append(len(layer.lora_A))
        assert len(A) == len(layer.lora_A) and module.scaling["default"] == pytest.approx(layer.scaling)
        assert off(layer.lora_A.mT @ layer.lora_A, A.mT @ A) < 1e-5
        assert not layer.lora_B.any() and not module.lora_B.default.weight.any()
    assert sum(ranks) == r * len(ranks) and (len(set(ranks)) > 1) == (rho > 1)


def test_rho_is_at_least_one() -> None:
    with pytest.raises(VariantError, match="rho must be at least 1"):
        EVA(rho=0.5)
