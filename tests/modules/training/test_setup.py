"""What a run settles before it trains: where it runs, and whether padding is left out."""

import pytest
import torch

from modules.benchmarks.glue.tasks import TASKS
from modules.benchmarks.text.data import TextDataModule
from modules.runs.config import RunConfig
from modules.training.acceleration import pack_rows
from modules.training.parallel.devices import on_cpu
from tests.support.models import MODELS
from tests.support.tokens import make_tokens
from variants import LoRA, attach


@pytest.mark.parametrize(
    ("changes", "packs"),
    [({}, True), ({"training": {"pad": "max"}}, False), ({"seeds": [0, 1]}, False)],
)
def test_which_runs_pack_rows(changes, packs):
    """On a CPU those of one seed, unless padding is asked for."""
    config = RunConfig.__new__(RunConfig)
    for name, value in {"trainer": {"accelerator": "cpu"}, "training": {}, "compile": "off", **changes}.items():
        object.__setattr__(config, name, value)
    data = TextDataModule(TASKS["rte"], {"train": make_tokens([3, 5])}, pad_id=1, batch_size=2, max_length=64)
    data.seeds = changes.get("seeds", [0])
    pack_rows(attach(MODELS["roberta"](), LoRA(), seed=0), data, config)
    assert ("ends" in next(iter(data.train_dataloader()))) == packs


@pytest.mark.parametrize(
    ("gpu", "accelerator", "expected"),
    [(True, "auto", False), (True, "cpu", True), (False, "auto", True), (True, "gpu", False)],
)
def test_what_runs_on_the_cpu(monkeypatch, gpu, accelerator, expected):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu)
    config = RunConfig.__new__(RunConfig)
    object.__setattr__(config, "trainer", {"accelerator": accelerator})
    assert on_cpu(config) == expected
