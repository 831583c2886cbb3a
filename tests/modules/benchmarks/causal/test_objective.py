"""The loss of target tokens against transformers' own, with labels of -100 elsewhere."""

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from modules.benchmarks.causal.objective import CausalLM
from modules.benchmarks.causal.targets import CausalDataModule, tokens_of

SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "pad_token_id": 0}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, **HEADS, query_pre_attn_scalar=8)),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_transformers_own(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_VARIANTS_CACHE", str(tmp_path))
    torch.manual_seed(0)
    model, rng = MODELS[name]().eval(), np.random.default_rng(0)
    rows = []
    for length in (5, 9, 12):
        ids = rng.integers(1, 50, length).tolist()
        rows.append((ids, rng.random(length) < 0.5))
    rows[0][1][-1] = True
    tokens = tokens_of("a", lambda: rows)
    data = CausalDataModule({"train": tokens, "validation": tokens}, ("validation",), 0, 3, 3, max_length=16)
    (batch,) = data.val_dataloader()[0]
    losses, weights, _ = CausalLM().losses(model, batch, training=False)
    labels = torch.full_like(batch["input_ids"], -100)
    for place, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        ids, targets = next(row for row in rows if len(row[0]) == length)
        for k in range(1, length):
            if targets[k]:
                labels[place, k] = ids[k]
    expected = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
    assert ((losses * weights).sum() / weights.sum()).item() == pytest.approx(expected.item(), rel=1e-5)
    assert len(losses) == int((labels != -100).sum())
