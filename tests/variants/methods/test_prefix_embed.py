"""Prefix-embedding tuning is a few more words."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.support.models import MODELS, inputs
from tests.support.transformer_reference import P, close, logits, trained
from variants import PrefixEmbed


@pytest.mark.parametrize("name", ["roberta", "gpt2", "deberta-v2"])
def test_prefix_embed_is_a_few_more_words(name) -> None:
    """The same as a text in which those words stand, in a vocabulary that has them."""
    model, batch = MODELS[name](), inputs(name)
    plain = copy.deepcopy(model)
    (prefix,) = (t.detach() for t in trained(model, PrefixEmbed(p=P)).adapter.tensors().values())
    start = 0 if name == "gpt2" else 1
    table = plain.get_input_embeddings()
    new = torch.arange(P) + len(table.weight)
    table.weight = nn.Parameter(torch.cat([table.weight.detach(), prefix]))
    ids, mask = batch["input_ids"], batch["attention_mask"]

    def insert(t: Tensor, row: Tensor) -> Tensor:
        return torch.cat([t[:, :start], row.expand(len(t), -1), t[:, start:]], 1)

    longer = {"input_ids": insert(ids, new), "attention_mask": insert(mask, torch.ones(P, dtype=torch.long))}
    if name == "gpt2":  # its head looks for the last token, which the padding id tells it: give it the same
        hidden = plain.transformer(**longer).last_hidden_state[torch.arange(len(ids)), mask.sum(1) - 1 + P]
        assert close(logits(model, batch), plain.score(hidden).detach())
    else:
        assert close(logits(model, batch), logits(plain, longer))
