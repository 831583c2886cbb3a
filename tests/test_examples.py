"""The examples: the notebook is executed in a kernel of its own, and the searches search and train."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_notebook_trains_compares_and_predicts(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", 4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # it is kept without
    for cell in notebook.cells:
        cell.source = cell.source.replace("epochs=2", "epochs=1")  # for the test's time alone
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    said = ["\n".join(str(o.get("text") or o.data.get("text/plain")) for o in cell.outputs) for cell in cells]
    for words in ("embedded-roberta (embedded)", "RunResult(", "rte lora seed 0"):
        assert words in said[0]
    assert "embedded" not in said[1]  # the second call has nothing to do
    assert "Results of 2 runs" in said[2] and "my-xs" in said[2]
    assert any("image/png" in output.get("data", {}) for output in cells[4].outputs)
    assert said[5] == "{0: 'entailment', 1: 'not_entailment'}" and "probability" in said[6]
    assert len(list((tmp_path / "results" / "runs").glob("*.json"))) == 2
    assert os.listdir(tmp_path) == ["results"]  # nothing else is left where the notebook runs


# ---- searches ----


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def formula(variant: str, *, r: int, lr: float, **_) -> SimpleNamespace:
    """In place of `train`: best at r = 8 and a small rate; r = 16 diverges."""
    return SimpleNamespace(score=None if r == 16 else 0.5 - abs(r - 8) / 100 - lr)


def test_optuna_finds_the_best_and_goes_on(tmp_path, monkeypatch):
    module = example("optuna_sweep")
    monkeypatch.setattr(module, "train", formula)
    study = module.main(trials=15, results_dir=str(tmp_path))
    assert all((each.state.name == "PRUNED") == (each.params["r"] == 16) for each in study.trials)
    tried = [formula("lora", **each.params).score for each in study.trials if each.params["r"] != 16]
    assert study.best_value == max(tried), "what is drawn is left to chance"
    assert len(module.main(trials=1, results_dir=str(tmp_path)).trials) == 16


@pytest.mark.slow
def test_what_optuna_calls_trains(tmp_path):
    """Sixteen steps of an epoch."""
    study = example("optuna_sweep").main(1, str(tmp_path), wandb="off", epochs=1, batch_size=128)
    assert 0.5 < study.best_value < 1 and len(list((tmp_path / "runs").glob("*.json"))) == 1


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="needs Ray Tune: pip install 'ray[tune]'")
def test_ray_finds_the_best(tmp_path, monkeypatch):
    import ray

    monkeypatch.setenv("HOME", str(tmp_path))
    module = example("ray_tune")
    module.__name__ = "__main__"  # as when it is run: what it defines travels to Ray's processes
    monkeypatch.setattr(module, "train", formula)
    try:
        best = module.main(trials=6, results_dir=str(tmp_path / "results"))
    finally:
        ray.shutdown()
    assert best.metrics["score"] == formula("lora", **best.config).score
