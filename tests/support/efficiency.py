"""Tiny shapes for the efficiency benchmark, and its measurement with few rounds."""

import torch

from modules.efficiency.steps import grid, measure

CPU = torch.device("cpu")

ROBERTA = {"model_type": "roberta", "vocab_size": 100, "max_position_embeddings": 520, "type_vocab_size": 1}
ROBERTA |= {"pad_token_id": 1, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
ROBERTA |= {"intermediate_size": 24, "initializer_range": 0.2}

GPT2 = {"model_type": "gpt2", "vocab_size": 100, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 512}
GPT2 |= {"initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0}

SMALL = {"vera": {"r": 12}}


def measured(scenario, patterns=(), **settings):
    found = {}
    chosen = grid.grid(scenario.methods, scenario.modes, patterns, bf16=settings.get("bf16", False))
    settings = {"bf16": False, "rounds": 3, "passes": 1, "launches": False} | settings
    measure.measure(scenario, CPU, chosen, keep=found.update, **settings)
    return found
