"""The head depends on the seed alone."""

import pytest
import torch

from modules.backbones.loading import load_backbone
from modules.benchmarks.glue.tasks import TASKS


def test_head_depends_on_the_seed_alone(folder):
    heads = []
    for seed, state in [(0, 1), (0, 2), (1, 2)]:
        torch.manual_seed(state)
        before = torch.get_rng_state()
        model, _, _ = load_backbone(folder, TASKS["rte"], seed)
        assert torch.equal(before, torch.get_rng_state())
        heads.append(torch.cat([p.flatten() for p in model.classifier.parameters()]))
        assert float(model.classifier.dense.weight.detach().std()) == pytest.approx(0.02, rel=0.25)
        assert not model.classifier.dense.bias.any()
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_a_checkpoints_own_head_is_not_kept(folder):
    for labels in ("rte", "mnli"):  # a head of the same size, and one of another
        model, _, _ = load_backbone(folder, TASKS[labels], seed=5)
        fresh, _, _ = load_backbone(folder, TASKS["rte"], seed=6)
        with torch.no_grad():
            model.classifier.out_proj.weight.fill_(7.0)
        model.save_pretrained(folder)
        again, _, _ = load_backbone(folder, TASKS["rte"], seed=6)
        assert torch.equal(again.classifier.out_proj.weight, fresh.classifier.out_proj.weight)
