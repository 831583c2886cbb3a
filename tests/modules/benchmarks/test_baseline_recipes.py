"""Recipes of the baselines: the figures of LoRA's Table 9, typed in a second time, and the comparison's sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from modules.benchmarks.glue import GLUE
from modules.benchmarks.glue.tasks import TASKS
from modules.benchmarks.recipes import load_recipe
from variants import resolve
from variants.parameter_budget import fit, trained_parameters

ORDER = ("mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb")
COMPARE = Path(__file__).resolve().parents[3] / "configs" / "compare" / "minilm.yaml"
TABLE_9 = {  # (protocol, variant): bottleneck, epochs, the tasks whose learning rate is 3e-5 (the others': 3e-4)
    ("paper-dagger-wide", "adapter_p"): (64, (10, 20, 20, 20, 10, 20, 20, 20), ("mnli", "sst2")),
    ("paper-dagger", "adapter_p"): (16, (5, 20, 20, 20, 10, 20, 20, 20), ()),
    ("paper-dagger-wide", "adapter_h"): (64, (10, 5, 10, 10, 5, 20, 20, 10), ("mnli",)),
    ("paper-dagger", "adapter_h"): (8, (10, 5, 10, 10, 5, 20, 20, 10), ()),
}


@pytest.mark.parametrize(("protocol", "variant"), TABLE_9)
def test_adapters_on_roberta_large_are_table_9(protocol, variant) -> None:
    bottleneck, epochs, slow = TABLE_9[protocol, variant]
    for task, count in zip(ORDER, epochs, strict=True):
        recipe = load_recipe("FacebookAI/roberta-large", protocol, variant, task, GLUE)
        assert recipe.options == {"r": bottleneck} and not recipe.mnli_init and len(recipe.seeds) == 5
        assert (recipe.training["epochs"], recipe.training["lr"]) == (count, 3e-5 if task in slow else 3e-4)
        assert (recipe.training["batch_size"], recipe.training["max_length"]) == (32, 128)
        assert recipe.training["warmup_ratio"] == 0.06


def test_dagger_recipes_can_be_named_on_the_command_line() -> None:
    assert {protocol for protocol, _ in TABLE_9} <= set(GLUE.presets)


def test_the_comparison_is_at_loras_size() -> None:
    """all-MiniLM-L6-v2: 6 blocks of width 384."""
    from transformers import BertConfig, BertForSequenceClassification

    shape = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    with torch.device("meta"):
        model = BertForSequenceClassification(BertConfig(**shape))
    variants = yaml.safe_load(COMPARE.read_text(encoding="utf-8"))["variants"]
    lora = trained_parameters(model, resolve("lora")(r=8))
    assert lora == 6 * 2 * 2 * 384 * 8
    own = {"head", "full", "dora", "adalora", "vera", "bitfit", "ft_top2", "prefix_embed"}  # not by this number
    for name, entry in variants.items():
        if name not in own:
            variant = resolve(name)(**entry["options"])
            assert fit(model, variant, lora)[0] == variant
        assert all(lr > 0 for lr in entry["lr"])
    assert set(TASKS) > set(yaml.safe_load(COMPARE.read_text(encoding="utf-8"))["tasks"])
