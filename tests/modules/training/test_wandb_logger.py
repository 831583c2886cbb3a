"""Dashboards: a run keeps its id, and a broken W&B breaks nothing."""

import pytest

from modules.runs.results import ResultStore
from tests.support.runs import ENVIRONMENT, planned, start


@pytest.mark.slow
def test_wandb_offline_keeps_the_run_and_its_id(command, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setitem(ENVIRONMENT, "WANDB_DIR", str(tmp_path))
    monkeypatch.delitem(ENVIRONMENT, "WANDB_MODE", raising=False)
    (run,) = planned([*command, "--wandb", "offline"], "head")
    assert start(run, output=tmp_path / "log").wait() == 0, (tmp_path / "log").read_text()
    result = ResultStore(run.results_dir).read(run.id)
    assert result.wandb_id, (tmp_path / "log").read_text()
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{result.wandb_id}"))


def test_a_broken_wandb_does_not_break_the_run(command, monkeypatch):
    import lightning.pytorch.loggers

    from modules.training.run import run as train

    def broken(*args, **kwargs):
        raise RuntimeError("no dashboard today")

    monkeypatch.setattr(lightning.pytorch.loggers.WandbLogger, "__init__", broken)
    (run,) = planned([*command, "--wandb", "offline"], "head")
    with pytest.warns(UserWarning, match="Weights & Biases is off for this run: no dashboard today"):
        assert train(run).wandb_id is None
