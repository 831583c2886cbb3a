"""The benchmark's batches: their lengths are those of the tasks, their targets those of a language model."""

import numpy as np
import pytest
import torch

from modules.data.padding import EDGES
from modules.efficiency.steps import batches as batch_kinds
from tests.support.efficiency import CPU, GPT2, ROBERTA


def test_tables_hold_every_task_of_glue_and_all_of_e2e():
    glue = batch_kinds.table("glue")
    assert list(glue) == ["mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb"]
    assert glue["rte"].counts.sum() == 2490 and glue["sst2"].counts.sum() == 67_349
    medians = {task: np.repeat(t.tokens, t.counts).mean() for task, t in glue.items()}
    assert medians["cola"] < medians["sst2"] < medians["mrpc"] < medians["rte"]
    (e2e,) = batch_kinds.table("e2e").values()
    assert e2e.counts.sum() == 42_061 and (e2e.targets < e2e.tokens).all()


def test_drawn_batches_have_the_lengths_of_the_table():
    batches = batch_kinds.drawn_batches(ROBERTA, 400, "glue", CPU, 8)
    for batch, lengths in zip(batches, batch_kinds.table("glue").values(), strict=True):
        drawn = batch["attention_mask"].sum(1).double()
        mean = (lengths.tokens * lengths.counts).sum() / lengths.counts.sum()
        assert drawn.mean().item() == pytest.approx(mean, rel=0.15)
        width = batch["input_ids"].shape[1]
        assert width in EDGES and drawn.max() <= width and all(drawn.max() > edge for edge in EDGES if edge < width)
        assert ((batch["input_ids"] == 1) == (batch["attention_mask"] == 0)).all()


def test_language_model_predicts_its_targets():
    for batch in batch_kinds.drawn_batches(GPT2, 8, "e2e", CPU, 3):
        real = batch["weights"] > 0
        assert len(real) % batch_kinds.MULTIPLE == 0 and batch["weights"].sum().item() == pytest.approx(1)
        nexts = batch["input_ids"].flatten()[batch["positions"][real] + 1]
        assert torch.equal(nexts, batch["targets"][real])
        assert batch["attention_mask"].flatten()[batch["positions"][real] + 1].all()
