"""A decoder in shards computes what the whole one does; its weights are made quickly, and all of them."""

import json

import pytest
import torch

from modules.efficiency.scaling.sharded_job import llama, main
from tests.support.two_processes import as_two_ranks

SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99}


def test_weights_are_the_same_everywhere_and_the_model_computes():
    one, other = (llama(SMALL, torch.float32) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert one.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.1)
    loss = one(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss
    assert loss.item() == pytest.approx(4.6, abs=0.5)  # log 99


@pytest.mark.slow
def test_shards_give_the_loss_of_the_whole(tmp_path):
    """Of the first step: an adapter of LoRA adds nothing at its start."""
    settings = {"config": SMALL, "r": 4, "rows": 2, "width": 16, "steps": 2, "gpu": False}
    as_two_ranks(tmp_path / "log", main, settings | {"result": str(tmp_path / "result.json")})
    found = json.loads((tmp_path / "result.json").read_text())
    ids = torch.randint(0, 99, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert found["loss"] == pytest.approx(
            llama(SMALL, torch.float32)(input_ids=ids, labels=ids).loss.item(), abs=1e-5
        )
    assert found["trained"] == 2 * 4 * (4 * 128 + 3 * 160)  # q, k, v, o; gate, up, down
