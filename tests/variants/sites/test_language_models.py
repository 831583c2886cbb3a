"""LoRA on language models of transformers: a part of what `tests.support.decoder_survey` tries on all of them."""

from __future__ import annotations

import re

import pytest
import transformers

from modules.paths import PROJECT
from tests.support import decoder_survey
from tests.support.causal_models import model_types
from tests.support.decoder_survey import examine, row
from variants.sites.family import Architecture

TRIED = (
    "llama",
    "qwen3",
    "gemma3_text",
    "mistral",
    "phi3",
    "gpt2",
    "olmo2",
    "glm",
    "deepseek_v3",
    "mixtral",
    "gpt_oss",
)
TRIED += ("falcon", "mpt", "mamba", "qwen3_next", "seed_oss")


@pytest.mark.parametrize("name", TRIED)
def test_it_trains_recomputes_and_merges(name: str) -> None:
    found = examine(name)
    assert found.built and not found.refused and not found.faults and found.adapted
    assert not found.uncalled and not found.still, "every tensor has a gradient"
    assert found.recomputed is not None, "dropout included"


def test_a_fault_is_seen(monkeypatch) -> None:
    monkeypatch.setattr(decoder_survey, "MERGED", 0.0)
    assert "merged logits differ" in row(examine("llama"))
    monkeypatch.setattr("variants.sites.candidates._bypassed", lambda model: iter(()))
    found = examine("mamba")
    assert found.uncalled and "not called by text alone: mixer.dt_proj" in row(found)
    monkeypatch.setattr("variants.sites.candidates.architecture_of", lambda model: Architecture())
    assert "output embedding" in row(examine("llama"))


def test_the_table_in_the_docs_has_every_model_type() -> None:
    text = (PROJECT / "docs" / "models.md").read_text()
    if f"transformers {transformers.__version__}," not in text:
        pytest.skip("the table is of another version of transformers")
    rows = re.findall(r"^\| ([\w.-]+) \| (?:yes|as [\w-]+|–) \|", text, re.M)
    assert rows == model_types()
