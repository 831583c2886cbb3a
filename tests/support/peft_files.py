"""Adapters that were trained and written by us or by PEFT, and read by PEFT."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.tiny import gpt2, logits, roberta, train
from variants import AdaLoRA, DoRA, LoRA, VeRA

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"

upstream = pytest.importorskip("peft", reason="PEFT is not installed")


def by_peft(model: nn.Module, folder: Path) -> nn.Module:
    """PEFT's own reading; it warns of any tensor that it finds no place for, or misses."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to")
        return upstream.PeftModel.from_pretrained(model, folder).eval()


def written_by_peft(model: nn.Module, config, folder: Path) -> torch.Tensor:
    """Train and save with PEFT; the logits."""
    wrapped = upstream.get_peft_model(model, config)
    train({k: p for k, p in wrapped.named_parameters() if p.requires_grad}, 3)
    wrapped.save_pretrained(folder)
    return logits(wrapped)


OURS = {
    "lora": LoRA(r=4, alpha=6, dropout=0.1),
    "lora, rslora": LoRA(r=4, alpha=6, rslora=True, target="all-linear", layers="1"),
    "lora, by layer": LoRA(
        r=4, alpha=6, target="attn", per_layer={"*.1.*": {"r": 2, "alpha": 7.5}, "*[os][ej]": {"r": 3}}
    ),  # dense, c_proj
    "lora, scaled apart": LoRA(r=4, alpha=6, rslora=True, per_layer={"*.v*": {"r": 2, "alpha": 9.0}}),
    "dora": DoRA(r=4, alpha=6, target="o,up"),
    "dora, by layer": DoRA(r=4, rslora=True, target="all-linear", per_layer={"*.1.*": {"r": 2, "alpha": 7.5}}),
    "vera": VeRA(r=20, target="o", projection_seed=3),
    "adalora": AdaLoRA(init_r=4, target_r=2, alpha=6, target="o,up", tinit=0.25),
}

QV = ["query", "value"]

CLS = {"task_type": "SEQ_CLS"}

LORA = {"target_modules": QV, **CLS}

FUSED = {"target_modules": ["c_attn"], "fan_in_fan_out": True, **CLS}

PATTERNS = {"rank_pattern": {"0.attention.self.query": 2, "value": 3}, "alpha_pattern": {r"1\..*": 11}}

ADALORA = {"init_r": 4, "target_r": 2, "total_step": 100, "lora_alpha": 5}

THEIRS = {
    "lora": (roberta, upstream.LoraConfig(r=3, lora_alpha=5, **LORA)),
    "lora, fused": (gpt2, upstream.LoraConfig(r=3, lora_alpha=5, **FUSED)),
    "lora, patterns": (roberta, upstream.LoraConfig(r=4, use_rslora=True, **PATTERNS, **LORA)),
    "lora, one block": (roberta, upstream.LoraConfig(layers_to_transform=[1], **LORA)),
    "lora, expression": (roberta, upstream.LoraConfig(target_modules=r".*\.0\..*(key|output\.dense)", **CLS)),
    "lora, no task": (gpt2, upstream.LoraConfig(target_modules=["c_proj"], fan_in_fan_out=True)),
    "dora": (roberta, upstream.LoraConfig(r=3, lora_alpha=5, use_dora=True, **LORA)),
    "dora, fused": (gpt2, upstream.LoraConfig(r=3, lora_alpha=5, use_dora=True, **FUSED)),
    "vera": (roberta, upstream.VeraConfig(r=20, **LORA)),
    "vera, fused": (gpt2, upstream.VeraConfig(r=5, **FUSED)),
    "vera, three shapes": (
        roberta,
        upstream.VeraConfig(r=5, target_modules=["query", "intermediate.dense", "output.dense"], **CLS),
    ),
    "vera, bank from its seed": (
        roberta,
        upstream.VeraConfig(r=5, save_projection=False, projection_prng_key=9, **LORA),
    ),
    "adalora": (roberta, upstream.AdaLoraConfig(**ADALORA, **LORA)),
    "adalora, fused": (gpt2, upstream.AdaLoraConfig(**ADALORA, **FUSED)),
}
