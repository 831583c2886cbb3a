"""UNets in the efficiency benchmark: ours and PEFT's as diffusers' scripts have it compute the same."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the extra diffusion")
pytest.importorskip("peft", reason="needs the extra dev")

from modules.efficiency import report, thresholds
from modules.efficiency.steps import loss_curves, unets
from modules.efficiency.steps.backbones import build, loss_of, sizes
from modules.efficiency.steps.scenarios import SCENARIOS
from tests.support.efficiency import CPU, measured
from variants.sites.targets import find_sites

SMALL = SCENARIOS["unet-small"]


def test_what_diffusers_scripts_adapt_is_attn() -> None:
    model = build(sizes("small-unet"), CPU)
    theirs = {path for path, _ in model.named_modules() if path.endswith(tuple(f".{name}" for name in unets.TARGETS))}
    assert theirs == {site.path for site in find_sites(model, SMALL.target)}


def test_the_published_size() -> None:
    """Stable Diffusion 1.5's UNet has 859.5 million parameters."""
    import diffusers

    with torch.device("meta"):
        model = diffusers.UNet2DConditionModel(**{k: v for k, v in sizes("sd15-unet").items() if k != "model_type"})
    assert sum(p.numel() for p in model.parameters()) == 859_520_964


def test_the_loss_is_of_the_noise() -> None:
    model, (batch,) = build(sizes("small-unet"), CPU).eval(), unets.batches(sizes("small-unet"), 2, CPU)
    with torch.no_grad():
        found = model(batch["latents"], batch["times"], batch["words"]).sample
        assert torch.allclose(loss_of(model, batch), torch.nn.functional.mse_loss(found, batch["noise"]))


@pytest.mark.slow
def test_ours_and_pefts_curves_are_equal(monkeypatch) -> None:
    monkeypatch.setattr(loss_curves, "STEPS", 4)
    (record,) = loss_curves.compare(SMALL, CPU, ("eager",), precisions=("fp32",))
    assert loss_curves.agrees(record) and record["effect"] > 1e-3


@pytest.mark.slow
def test_its_step_is_measured_against_pefts_and_the_limit() -> None:
    found = measured(SMALL, ("limit eager", "ours lora", "peft"), rounds=1)
    ways = found["ways"]
    assert set(ways) == {"limit eager", "ours lora eager", "peft lora eager"}
    assert ways["ours lora eager"]["trained"] == ways["peft lora eager"]["trained"] > 0
    assert ways["limit eager"]["trained"] == 0 and all(way["step_ms"] > 0 for way in ways.values())
    text = "\n".join(report._scenario(found))
    assert "## small-unet, 2 x 16 x 16 latents, attn" in text and "pictures/s" in text
    (bar,) = thresholds.rows({"scenarios": {"unet": found}})
    assert bar["what"] == "ours lora eager / peft lora eager" and bar["limit"] == 1.0
